"""The one channel that an adapter uses, built anew when it keeps failing: certificates are renewed."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc
import grpc.aio

from arkgate.nodes.channel import Channel

FAILURES_BEFORE_REBUILD = 3


class Connection:
    """Opened at the first call, and again after it was closed."""

    def __init__(
        self,
        build: Callable[[], Channel],
        tls_files: Sequence[Path],
        *,
        closed: Callable[[], None] = lambda: None,
    ) -> None:
        self._build = build
        self._tls_files = tls_files
        self._closed = closed
        self._failures = 0
        self.channel: Channel | None = None

    def open(self) -> Channel:
        """The channel. Raises CredentialsUnreadable."""
        if self.channel is None:
            self.channel = self._build()
        return self.channel

    def worked(self) -> None:
        """A call was answered."""
        self._failures = 0

    async def count_failure(self, error: BaseException | None) -> None:
        """Closes the channel when it keeps failing, and at once when its TLS files are others now."""
        if not isinstance(error, grpc.aio.AioRpcError) or error.code() != grpc.StatusCode.UNAVAILABLE:
            return
        self._failures += 1
        if self._failures >= FAILURES_BEFORE_REBUILD or self._tls_changed():
            self._failures = 0
            await self.close()

    def _tls_changed(self) -> bool:
        with contextlib.suppress(OSError):
            return self.channel is not None and self.channel.certificate != b"".join(
                file.read_bytes() for file in self._tls_files
            )
        return False

    async def close(self) -> None:
        """Breaks what is open; the next call opens another one."""
        if self.channel is not None:
            channel, self.channel = self.channel, None
            self._closed()
            await channel.grpc.close(grace=0)
