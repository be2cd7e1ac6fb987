"""gRPC calls to a daemon that knows its clients by macaroons, as LND and waved do."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from arkgate.core.errors import NodeUnavailable
from arkgate.nodes.channel import (
    Channel,
    CredentialsRefused,
    HasMacaroon,
    map_grpc_errors,
    with_macaroon_of_now,
)
from arkgate.nodes.connection import Connection

Stub = Callable[[grpc.aio.Channel], Any]
"""A generated stub; the methods of its instances share no type."""


class MacaroonCalls:
    """Calls over one channel, which is rebuilt when it keeps failing, with a macaroon that may be replaced.

    What its methods raise is NodeUnavailable, with the node's own words.
    """

    def __init__(
        self,
        node: str,
        credentials: HasMacaroon,
        build: Callable[[], Channel],
        *,
        timeout_seconds: float,
        tls_files: Sequence[Path] = (),
        renewed: Callable[[], None] = lambda: None,
    ) -> None:
        self._node = node
        self._credentials = credentials
        self._timeout_seconds = timeout_seconds
        self._renewed = renewed
        self.connection = Connection(build, tls_files, closed=renewed)

    async def unary(
        self, stub: Stub, method: str, request: Message, action: str, *, timeout: float | None = None
    ) -> Any:  # noqa: ANN401 - as `Stub`
        """One call; once more when it was refused for its macaroon and a new one is there."""
        channel = self.connection.open()
        try:
            return await self._call(channel, stub, method, request, action, timeout=timeout)
        except CredentialsRefused:
            if not self.renew_macaroon(channel):
                raise
        return await self._call(self.connection.open(), stub, method, request, action, timeout=timeout)

    async def _call(
        self,
        channel: Channel,
        stub: Stub,
        method: str,
        request: Message,
        action: str,
        *,
        timeout: float | None,
    ) -> Any:  # noqa: ANN401 - as `Stub`
        call: Callable[..., Awaitable[Any]] = getattr(stub(channel.grpc), method)
        try:
            with map_grpc_errors(self._node, action):
                answer = await call(
                    request, timeout=timeout or self._timeout_seconds, metadata=channel.metadata
                )
        except NodeUnavailable as error:
            if code_of(error) != grpc.StatusCode.NOT_FOUND:
                await self.connection.count_failure(error.__cause__)
            raise
        self.connection.worked()
        return answer

    async def stream(self, stub: Stub, method: str, request: Message, action: str) -> AsyncIterator[Any]:
        """The messages of a stream until it ends or breaks; the next one is asked for with a new macaroon."""
        channel = self.connection.open()
        call = getattr(stub(channel.grpc), method)(request, metadata=channel.metadata)
        try:
            with map_grpc_errors(self._node, action):
                async for message in call:
                    yield message
        except CredentialsRefused:
            self.renew_macaroon(channel)
            raise
        except NodeUnavailable as error:
            await self.connection.count_failure(error.__cause__)
            raise
        finally:
            call.cancel()

    def renew_macaroon(self, used: Channel) -> bool:
        """Takes up the macaroon that is in its file now; whether it is another than the one that was used."""
        self._renewed()
        connection = self.connection
        if connection.channel is used:
            connection.channel = with_macaroon_of_now(used, self._credentials)
        return connection.channel is None or connection.channel.macaroon != used.macaroon

    async def close(self) -> None:
        """Breaks what is open."""
        await self.connection.close()


def code_of(refusal: NodeUnavailable) -> grpc.StatusCode | None:
    """The code that a call failed with; None when it is not gRPC's."""
    cause = refusal.__cause__
    return cause.code() if isinstance(cause, grpc.aio.AioRpcError) else None
