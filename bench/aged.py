"""Measures what age costs: a ledger that `bench.big_ledger` made beside an empty one, in one run.

    python -m bench.aged DIR [--seconds 12] [--accounts 1000000]

First reserve and settle, by turns in short slices; then `verify` in a process of its own while calls go
on: how long it takes, how long calls wait meanwhile, and how large SQLite's log becomes.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import uvloop

from arkgate.store import Store, open_store
from bench.big_ledger import FILE, account_id
from bench.pairs import Pairs, fill, pairs

CLIENTS, CALLERS_MEANWHILE = 32, 8
ROUNDS = 6
ACTIVE = 1_000
"""Accounts that call: as many in both ledgers."""
LOG_BYTES = 80 * 1024 * 1024
RATIO_TARGET, VERIFY_SECONDS_TARGET = 1.5, 120.0
_VERIFY = """
import asyncio, sys
from arkgate.store import read_store
async def main():
    async with read_store(sys.argv[1]) as statements:
        failed = [one.sentence for one in await statements.verify() if not one.holds]
    print("\\n".join(failed), end="")
asyncio.run(main())
"""


async def measure(directory: Path, accounts: int, seconds: float) -> bool:
    """Measures and prints; answers whether a target was missed."""
    big = f"sqlite:///{(directory / FILE).resolve()}"
    with tempfile.TemporaryDirectory(prefix="arkgate-bench-") as elsewhere:
        async with (
            open_store(big, None, log_bytes=LOG_BYTES) as old,
            open_store(f"sqlite:///{elsewhere}/empty.db", None, log_bytes=LOG_BYTES) as young,
        ):
            draw = random.Random()
            active = [account_id(draw.randrange(accounts)) for _ in range(ACTIVE)]
            for store in (old, young):
                await fill(store.ledger, store.clock, active, word=str(time.time_ns()))
            missed = await _compare(old, young, lambda: draw.choice(active), seconds)
            await _reads(old, active[0])
            everybody = lambda: account_id(draw.randrange(accounts))  # noqa: E731
            return await _verify_meanwhile(old, big, directory / f"{FILE}-wal", everybody) or missed


async def _compare(old: Store, young: Store, account: Callable[[], str], seconds: float) -> bool:
    sums = {"big": Pairs(), "empty": Pairs()}
    stores = dict(zip(sums, (old, young), strict=True))
    for _ in range(ROUNDS):
        for name, store in stores.items():
            slice_ = await pairs(
                store.ledger, store.clock, account, clients=CLIENTS, seconds=seconds / ROUNDS / 2
            )
            sums[name].add(slice_)
    for name, took in sums.items():
        print(
            f"{name:24} {took.per_second:8.0f} pairs/s {took.ms(0.5):8.2f} ms p50 {took.ms(0.99):8.2f} ms p99"
        )
    rates = [took.per_second for took in sums.values()]
    return _said(f"a pair costs {rates[1] / rates[0]:.2f} times as much", rates[1] / rates[0], RATIO_TARGET)


def _said(sentence: str, measured: float, target: float) -> bool:
    """Prints whether the target was met; answers whether it was missed."""
    print(f"{'met   ' if measured <= target else 'MISSED'} {sentence} (target {target:g})", flush=True)
    return measured > target


async def _reads(old: Store, account: str) -> None:
    started = time.perf_counter()
    await old.statements.totals()
    totals = time.perf_counter()
    await old.statements.statement(account, offset=0, limit=100)
    ended = time.perf_counter()
    pruned = await old.ledger.prune_answers(200)
    print(
        f"totals {(totals - started) * 1000:.0f} ms, a page of a statement {(ended - totals) * 1000:.1f} ms,"
        f" {pruned} answers pruned in {(time.perf_counter() - ended) * 1000:.1f} ms"
    )


async def _verify_meanwhile(store: Store, url: str, log_file: Path, account: Callable[[], str]) -> bool:
    before = await pairs(store.ledger, store.clock, account, clients=CALLERS_MEANWHILE, seconds=5)
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _VERIFY, url, stdout=asyncio.subprocess.PIPE
    )
    ending = asyncio.create_task(process.communicate())
    meanwhile, log_bytes = Pairs(), 0
    while not ending.done():
        meanwhile.add(await pairs(store.ledger, store.clock, account, clients=CALLERS_MEANWHILE, seconds=0.5))
        log_bytes = max(log_bytes, log_file.stat().st_size)
    took = time.perf_counter() - started
    failed, _ = await ending
    for name, load in (("before verify", before), ("while verify ran", meanwhile)):
        print(
            f"{name:24} {load.per_second:8.0f} pairs/s {load.ms(0.5):8.2f} ms p50 {load.ms(0.99):8.2f} ms p99"
            f" {load.ms(1):8.0f} ms at most"
        )
    print(f"SQLite's log grew to {log_bytes / 1e6:.0f} MB with {len(meanwhile.took)} pairs")
    if failed or process.returncode:
        print(f"MISSED the books are sound: {failed.decode()}")
        return True
    return _said(f"verify took {took:.0f} s", took, VERIFY_SECONDS_TARGET)


def main() -> None:
    """Measures and prints. Ends with 1 when a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.aged")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--accounts", type=int, default=1_000_000)
    asked = parser.parse_args()
    raise SystemExit(1 if uvloop.run(measure(asked.directory, asked.accounts, asked.seconds)) else 0)


if __name__ == "__main__":
    main()
