"""The wallet that pays from the simulated payer, or from any LND on regtest."""

import asyncio
import json
from pathlib import Path

import click

from arkgate.cli.places import PLACES_FILE, data_directory
from arkgate.core.invoice import InvoiceError, read_bolt11
from arkgate.simulator.wallet import PaymentFailed, pay


@click.group()
def wallet() -> None:
    """The simulated payer's wallet."""


@wallet.command("pay")
@click.argument("invoice")
@click.option("--address", help="The payer's gRPC, host:port; without it the demo's payer.")
@click.option("--tls-cert", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--macaroon", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def wallet_pay(invoice: str, address: str | None, tls_cert: Path | None, macaroon: Path | None) -> None:
    """Pay a regtest INVOICE and print its preimage."""
    invoice = invoice.strip().lower().removeprefix("lightning:")
    _refuse_real_money(invoice)
    given = (address, tls_cert, macaroon)
    if any(given) and not all(given):
        raise click.UsageError("--address, --tls-cert and --macaroon name a payer together: give all three.")
    if not (address and tls_cert and macaroon):
        address, tls_cert, macaroon = _demo_payer()
    try:
        paid = asyncio.run(pay(invoice, address=address, tls_cert=tls_cert, macaroon=macaroon))
    except (PaymentFailed, OSError) as error:
        raise click.ClickException(f"{error}.") from error
    answer = {"payment_preimage": paid.preimage.hex(), "payment_hash": paid.payment_hash.hex()}
    click.echo(json.dumps(answer))


def _refuse_real_money(invoice: str) -> None:
    try:
        network = read_bolt11(invoice).network
    except InvoiceError as error:
        raise click.ClickException(f"This cannot be paid: {error}.") from error
    if network != "regtest":
        raise click.ClickException(f"This is a {network} invoice; the simulated wallet pays regtest only.")


def _demo_payer() -> tuple[str, Path, Path]:
    file = data_directory() / PLACES_FILE
    try:
        places = json.loads(file.read_text())
    except OSError as error:
        raise click.ClickException(
            "No demo runs here. Start one with `make run`, set ARKGATE_DATA to its directory, or name the "
            "payer with --address, --tls-cert and --macaroon."
        ) from error
    return places["payer_address"], Path(places["payer_tls_cert"]), Path(places["payer_macaroon"])
