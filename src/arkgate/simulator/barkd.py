"""A simulated barkd: the daemon, which can be stopped and started, and whose Ark server can go away."""

import base64
import contextlib
import secrets
from pathlib import Path

from arkgate.simulator.barkd_rest import rest
from arkgate.simulator.barkd_wallet import ArkHabits, ArkWallet
from arkgate.simulator.daemon import SimulatedDaemon
from arkgate.simulator.network import Network
from arkgate.simulator.serving import serving


class SimulatedBarkd(SimulatedDaemon):
    """One simulated barkd."""

    def __init__(self, network: Network, name: str, *, data_dir: Path, port: int = 0) -> None:
        super().__init__(network, name, data_dir=data_dir, port=port)
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.token_file = self.data_dir / "auth_token"
        if not self.token_file.exists():
            self.token_file.touch(mode=0o600)
            self.token_file.write_text(_token())
        self.wallet = ArkWallet(network, self.peer, token=self.token_file.read_text())
        self._serving: contextlib.AsyncExitStack | None = None

    @property
    def ark(self) -> ArkHabits:
        """What can be wrong with it, besides `habits`."""
        return self.wallet.ark

    async def start(self) -> None:
        """See `SimulatedDaemon`. It opens its wallet itself, and may find its server down."""
        self.ark.never_connected = not self.ark.server_up
        self.ark.blind = False
        stack = contextlib.AsyncExitStack()
        self.port = await stack.enter_async_context(
            serving(rest(self.wallet), port=self.port, purpose=f"the simulated {self.name} barkd")
        )
        self._serving = stack
        self.wallet.start()

    async def stop(self) -> None:
        """See `SimulatedDaemon`. The buffer of notifications is lost."""
        self.wallet.running = False
        if self._serving is not None:
            serving_on, self._serving = self._serving, None
            await serving_on.aclose()

    def stop_server(self) -> None:
        """The Ark server goes away; barkd says that it is connected all the same."""
        self.ark.server_up = False

    def start_server(self) -> None:
        """It is back, and barkd is blind until it looks into its mailbox."""
        self.ark.server_up = self.ark.blind = True

    def renew_token(self) -> None:
        """Draws another token and writes it to the file."""
        self.wallet.token = _token()
        self.token_file.write_text(self.wallet.token)

    @property
    def open_streams(self) -> int:
        """See `SimulatedDaemon`."""
        return len(self.wallet.waits)

    def cut_streams(self) -> int:
        """See `SimulatedDaemon`."""
        return self.wallet.cut_waits()


def _token() -> str:
    """44 characters, as barkd's: base64url of a zero byte and 32 random ones."""
    return base64.urlsafe_b64encode(b"\0" + secrets.token_bytes(32)).rstrip(b"=").decode()
