"""What the stories of nodes share: whose invoice it is, and sessions that are paid."""

from tests.stage import Stage, eventually

from arkgate.core.invoice import read_bolt11
from arkgate.simulator.daemon import SimulatedDaemon


def made_by(node: SimulatedDaemon, invoice: str) -> bool:
    """Whether it is that node's."""
    return node.invoice(read_bolt11(invoice).payment_hash) is not None


async def comes_from(stage: Stage, node: SimulatedDaemon) -> None:
    """Waits until new invoices are that node's."""

    async def so() -> bool:
        answer = await stage.chat()
        return answer.status_code == 402 and made_by(node, answer.json()["invoice"])

    await eventually(so)


async def opened(stage: Stage, amount_sats: int) -> tuple[dict[str, str], str]:
    """A session's token and its unpaid invoice."""
    session = (await stage.http.post("/v1/sessions", json={"amount_sats": amount_sats})).json()
    return {"Authorization": f"Bearer {session['token']}"}, session["funding"]["lightning_invoice"]


async def has(stage: Stage, token: dict[str, str], sats: int) -> None:
    """Waits until an account has that balance."""

    async def so() -> bool:
        return bool((await stage.balance(token))["balance_sats"] == sats)

    await eventually(so)
