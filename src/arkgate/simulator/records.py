"""What the simulated nodes remember, as values, and the one SQLite file that outlives the process."""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from operator import attrgetter
from pathlib import Path

from arkgate.simulator.payment_request import PaymentRequest

BATCH_ROWS_MAX = 500


class PaymentStatus(Enum):
    """A payment's life as the payer sees it."""

    IN_FLIGHT = "IN_FLIGHT"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class InvoiceRow:
    """An invoice in its node's books. Times are Unix seconds."""

    node: str
    payment_hash: bytes
    preimage: bytes
    payment_secret: bytes
    payment_request: str
    memo: str
    description_hash: bytes
    amount_msat: int
    created_at: int
    expiry_seconds: int
    cltv_expiry: int
    private: bool = False
    is_keysend: bool = False
    add_index: int = 0
    settle_index: int = 0
    settled_at: int = 0
    paid_msat: int = 0
    canceled: bool = False
    collected: bool = False
    """Garbage that the node no longer knows; kept so that indices are never given twice."""

    @property
    def settled(self) -> bool:
        """Whether it was paid."""
        return self.settle_index > 0

    def canceled_at(self, now: float) -> bool:
        """Whether nothing can pay it any more; LND cancels what has expired."""
        return self.canceled or (not self.settled and now >= self.created_at + self.expiry_seconds)

    def request(self, payee: str) -> PaymentRequest:
        """What the invoice's text says, without reading it."""
        return PaymentRequest(
            payment_hash=self.payment_hash,
            payment_secret=self.payment_secret,
            amount_msat=self.amount_msat,
            description=self.memo,
            created_at=self.created_at,
            expiry_seconds=self.expiry_seconds,
            cltv_expiry=self.cltv_expiry,
            payee=payee,
            description_hash=self.description_hash,
        )


@dataclass(frozen=True, slots=True)
class PaymentRow:
    """A payment in the payer's books. `failure` is a name of lnrpc.PaymentFailureReason."""

    node: str
    payment_hash: bytes
    payment_request: str
    payee: str
    amount_msat: int
    created_at_ns: int
    number: int
    status: str = PaymentStatus.IN_FLIGHT.value
    preimage: bytes = b""
    failure: str = "FAILURE_REASON_NONE"


_INVOICE = tuple(field.name for field in fields(InvoiceRow))
_PAYMENT = tuple(field.name for field in fields(PaymentRow))
_values_of_invoice = attrgetter(*_INVOICE)
_values_of_payment = attrgetter(*_PAYMENT)


def _insert(table: str, columns: tuple[str, ...]) -> str:
    return f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * len(columns))})"  # noqa: S608  our names


_INSERT_INVOICE = _insert("invoices", _INVOICE)
_INSERT_PAYMENT = _insert("payments", _PAYMENT)


class Records:
    """The file. With `durable`, what was saved has reached the disk; else writes go out in batches."""

    def __init__(self, path: Path, *, durable: bool) -> None:
        self._durable = durable
        self._invoices: list[tuple[object, ...]] = []
        self._payments: list[tuple[object, ...]] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute(f"PRAGMA synchronous={'FULL' if durable else 'OFF'}")
        self._database.execute("CREATE TABLE IF NOT EXISTS nodes (name TEXT PRIMARY KEY, private_key BLOB)")
        for table, columns in (("invoices", _INVOICE), ("payments", _PAYMENT)):
            self._database.execute(
                f"CREATE TABLE IF NOT EXISTS {table} ({', '.join(columns)}, PRIMARY KEY (node, payment_hash))"
            )

    def private_key(self, node: str, fresh: bytes) -> bytes:
        """The node's key; the first time it is `fresh`."""
        self._database.execute("INSERT OR IGNORE INTO nodes VALUES (?, ?)", (node, fresh))
        row = self._database.execute("SELECT private_key FROM nodes WHERE name = ?", (node,)).fetchone()
        return bytes(row[0])

    def invoices(self, node: str) -> list[InvoiceRow]:
        """The node's invoices in order of add_index."""
        rows = self._database.execute("SELECT * FROM invoices WHERE node = ? ORDER BY add_index", (node,))
        return [InvoiceRow(*row) for row in rows]

    def payments(self, node: str) -> list[PaymentRow]:
        """The node's payments in the order in which they began."""
        rows = self._database.execute("SELECT * FROM payments WHERE node = ? ORDER BY number", (node,))
        return [PaymentRow(*row) for row in rows]

    def save_many(self, invoices: Iterable[InvoiceRow]) -> None:
        """Writes any number of invoices, all of them or none."""
        self.save(invoices=list(invoices))
        self._write()

    def save(self, *, invoices: Sequence[InvoiceRow] = (), payments: Sequence[PaymentRow] = ()) -> None:
        """Writes all of them or none."""
        self._invoices.extend(map(_values_of_invoice, invoices))
        self._payments.extend(map(_values_of_payment, payments))
        if self._durable or len(self._invoices) + len(self._payments) >= BATCH_ROWS_MAX:
            self._write()

    def _write(self) -> None:
        try:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany(_INSERT_INVOICE, self._invoices)
            self._database.executemany(_INSERT_PAYMENT, self._payments)
            self._database.execute("COMMIT")
        except sqlite3.Error:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise
        finally:
            self._invoices.clear()
            self._payments.clear()

    def close(self) -> None:
        """Writes what is left."""
        self._write()
        self._database.close()
