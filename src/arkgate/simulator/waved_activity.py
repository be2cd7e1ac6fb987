"""The activity of a simulated waved's wallet: its rows, the log of what became of them, and who follows it.

Source: Wavelength b7de4da0, swapwallet's projector.go and service.go. A row keeps what it once said of its
request; a reader who is too slow is told so and gets no more of what was missed.
"""

import asyncio
import contextlib
from collections.abc import Iterator

from arkgate._proto.waved import wallet_pb2 as wallet

STREAM_EVENTS_MAX = 100_000
CREDIT = "credit"


class Follower:
    """One open SubscribeWallet: what it has still to tell; None ends it."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[wallet.SubscribeWalletResponse | None] = asyncio.Queue(STREAM_EVENTS_MAX)
        self.missed = False
        """Whether something was left out since it last told something."""


class Activity:
    """The rows by their ids, and the log. `silent` and `overflowing` are switches of tests."""

    def __init__(self) -> None:
        self.rows: dict[str, wallet.WalletEntry] = {}
        self.silent = False
        """Followers are told nothing, and not that they missed it."""
        self.overflowing = False
        """Followers are too slow for what happens now."""
        self.followers: set[Follower] = set()
        self.followed = 0
        """How many SubscribeWallet there have been."""
        self._log: list[wallet.WalletEntry] = []

    def project(self, entry: wallet.WalletEntry) -> None:
        """Files what is known of a row now, and tells whoever follows."""
        row = wallet.WalletEntry()
        if (before := self.rows.get(entry.id)) is not None:
            row.request.CopyFrom(before.request)
            row.created_at_unix = before.created_at_unix
            row.note = before.note
        row.MergeFrom(entry)
        self.rows[entry.id] = row
        self._log.append(row)
        update = wallet.SubscribeWalletResponse(cursor=len(self._log), entry=row)
        for follower in self.followers:
            self._tell(follower, update)

    def _tell(self, follower: Follower, update: wallet.SubscribeWalletResponse) -> None:
        if self.silent:
            return
        if self.overflowing:
            follower.missed = True
            return
        if follower.missed:
            follower.missed = False
            reason = "subscriber fell behind the live buffer; reconcile via List and resume from cursor"
            follower.queue.put_nowait(wallet.SubscribeWalletResponse(gap=wallet.SubscribeGap(reason=reason)))
        follower.queue.put_nowait(update)

    def after(self, cursor: int, *, everything: bool) -> Iterator[wallet.SubscribeWalletResponse]:
        """What a stream tells again: after a cursor, or everything."""
        if cursor or everything:
            for number, row in enumerate(self._log[cursor:], start=cursor + 1):
                yield wallet.SubscribeWalletResponse(cursor=number, entry=row)

    @contextlib.contextmanager
    def following(self) -> Iterator[Follower]:
        """A follower of what happens from now on."""
        follower = Follower()
        self.followers.add(follower)
        self.followed += 1
        try:
            yield follower
        finally:
            self.followers.discard(follower)

    def cut(self) -> int:
        """Ends every stream; answers how many."""
        followers = list(self.followers)
        for follower in followers:
            while not follower.queue.empty():
                follower.queue.get_nowait()
            follower.queue.put_nowait(None)
        return len(followers)
