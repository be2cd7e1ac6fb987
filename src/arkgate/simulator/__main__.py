"""`python -m arkgate.simulator DIRECTORY`: the simulation in a process of its own, until it is stopped."""

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path

import uvloop

from arkgate.simulator.simulation import Simulation


def main() -> None:
    """Runs the simulation; the first line of output says, as JSON, where everything is."""
    parser = argparse.ArgumentParser(prog="python -m arkgate.simulator", description=__doc__)
    parser.add_argument("directory", type=Path)
    for name in ("gate", "payer", "payer-rest", "chat"):
        parser.add_argument(f"--{name}-port", type=int, default=0)
    parser.add_argument("--chat-log", type=Path)
    parser.add_argument("--settle-delay-seconds", type=float, default=0.05)
    parser.add_argument("--batched", action="store_true", help="fast, and forgetful when killed")
    parser.add_argument("--presign", nargs=3, type=int, metavar=("MSAT", "EXPIRY", "COUNT"))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(parser.parse_args()))


async def _run(arguments: argparse.Namespace) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with Simulation.running(
        data_dir=arguments.directory,
        gate_port=arguments.gate_port,
        payer_port=arguments.payer_port,
        payer_rest_port=arguments.payer_rest_port,
        chat_port=arguments.chat_port,
        chat_log=arguments.chat_log,
        settle_delay_seconds=arguments.settle_delay_seconds,
        durable=not arguments.batched,
    ) as simulation:
        if arguments.presign:
            amount_msat, expiry_seconds, count = arguments.presign
            simulation.gate.presign(amount_msat=amount_msat, expiry_seconds=expiry_seconds, count=count)
        sys.stdout.write(json.dumps(_places(simulation)) + "\n")
        sys.stdout.flush()
        await stopped.wait()


def _places(simulation: Simulation) -> dict[str, str]:
    gate, payer = simulation.gate, simulation.payer
    return {
        "gate_address": gate.address,
        "gate_tls_cert": str(gate.credentials.tls_cert),
        "gate_macaroon": str(gate.credentials.invoice_macaroon),
        "payer_address": payer.address,
        "payer_tls_cert": str(payer.credentials.tls_cert),
        "payer_macaroon": str(payer.credentials.admin_macaroon),
        "payer_rest_url": simulation.payer_rest_url,
        "chat_url": simulation.chat.url,
    }


if __name__ == "__main__":
    main()
