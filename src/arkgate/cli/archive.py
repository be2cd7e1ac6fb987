"""`backup` and `restore`: the whole ledger as one file that any engine can be restored from."""

import asyncio
from pathlib import Path

import click

from arkgate.cli.places import config_option, load_settings
from arkgate.cli.running import start_up_errors
from arkgate.cli.shown import time_shown
from arkgate.cli.spent import Spent, report_spent, spent_options
from arkgate.settings import Settings
from arkgate.store import read_store, restore_store, shown
from arkgate.store.archive import ArchiveError, read_archive, write_archive
from arkgate.store.restoring import Restored, refuse_other_keys

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@config_option
@click.argument("file", type=_FILE)
def backup(config_path: Path | None, file: Path) -> None:
    """Write the whole ledger to FILE, as it is at one moment, also while the gateway sells.

    The secret keys are not in it.
    """
    settings = load_settings(config_path)
    with start_up_errors():
        sentence = asyncio.run(_backup(settings, file))
    click.echo(sentence)
    click.echo(
        f"The secret keys are not in it, and without them nobody's token works: back up "
        f"{settings.keys_file} apart from it."
    )


async def _backup(settings: Settings, file: Path) -> str:
    async with read_store(settings.store_url) as statements, statements.snapshot() as snapshot:
        try:
            counts = await write_archive(snapshot, file)
        except ArchiveError as error:
            raise click.ClickException(f"{_capital(str(error))}.") from error
        return f"Wrote {file}: the books of {time_shown(snapshot.taken_at_ms)}, {sum(counts.values())} rows."


@click.command()
@config_option
@click.argument("file", type=_FILE)
@spent_options
def restore(config_path: Path | None, file: Path, log: tuple[Path, ...], backend_log: Path | None) -> None:
    """Fill an empty ledger from FILE. Its gateway sells nothing before every node was asked.

    With --log, says what was spent since the backup: the payers have it back.
    """
    settings = load_settings(config_path)
    with start_up_errors():
        restored = asyncio.run(_restore(settings, file))
        click.echo(
            f"Restored {sum(restored.row_counts.values())} rows into {shown(settings.store_url)}: the books "
            f"of {time_shown(restored.taken_at_ms)}."
        )
        click.echo(
            "They are paused: `arkgate serve` asks the nodes for every payment since then and sells again by "
            "itself when that is done; `arkgate ledger reconcile` does the same without a gateway."
        )
        asyncio.run(report_spent(settings, Spent(log, backend_log)))


async def _restore(settings: Settings, file: Path) -> Restored:
    try:
        archive = read_archive(file)
        refuse_other_keys(archive, settings.keys_file)
        return await restore_store(settings.store_url, archive)
    except ArchiveError as error:
        raise click.ClickException(f"{_capital(str(error))}.") from error


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
