"""LND's messages, made from the simulated nodes' records."""

import itertools
from collections.abc import Iterable, Sequence

from arkgate._proto.lnd import lightning_pb2
from arkgate.simulator.payment_request import PaymentRequest
from arkgate.simulator.records import InvoiceRow, PaymentRow

PAGE_DEFAULT = 100
_Invoice = lightning_pb2.Invoice


def invoice_message(row: InvoiceRow, now: float, parts: Sequence[int] = ()) -> lightning_pb2.Invoice:
    """The invoice as its node describes it now. The preimage is there as in LND, also while it is open.

    `parts`: the HTLCs that have arrived, in msat; they are held, and the invoice OPEN, until all have.
    """
    return _Invoice(
        memo=row.memo,
        r_preimage=row.preimage,
        r_hash=row.payment_hash,
        value=row.amount_msat // 1000,
        value_msat=row.amount_msat,
        creation_date=row.created_at,
        settle_date=row.settled_at,
        payment_request=row.payment_request,
        description_hash=row.description_hash,
        expiry=row.expiry_seconds,
        cltv_expiry=row.cltv_expiry,
        private=row.private,
        add_index=row.add_index,
        settle_index=row.settle_index,
        amt_paid_sat=row.paid_msat // 1000,
        amt_paid_msat=row.paid_msat,
        state=_state(row, now),
        htlcs=[_htlc(row, number, msat) for number, msat in enumerate(parts)],
        is_keysend=row.is_keysend,
        payment_addr=row.payment_secret,
    )


def _htlc(row: InvoiceRow, number: int, amount_msat: int) -> lightning_pb2.InvoiceHTLC:
    return lightning_pb2.InvoiceHTLC(
        chan_id=1 + number,
        amt_msat=amount_msat,
        state=lightning_pb2.SETTLED if row.settled else lightning_pb2.ACCEPTED,
        mpp_total_amt_msat=row.paid_msat or row.amount_msat,
    )


def _state(row: InvoiceRow, now: float) -> lightning_pb2.Invoice.InvoiceState.ValueType:
    if row.settled:
        return _Invoice.SETTLED
    return _Invoice.CANCELED if row.canceled_at(now) else _Invoice.OPEN


def list_invoices(
    rows: Iterable[InvoiceRow], request: lightning_pb2.ListInvoiceRequest, now: float
) -> lightning_pb2.ListInvoiceResponse:
    """One page of the rows, which come in the request's order from its offset on.

    Reads them until the page is full, as LND walks its index. The page ascends by add_index, also when
    the request goes backwards; the offsets are those of its first and last invoice, 0 when it is empty.
    """
    limit = request.num_max_invoices or PAGE_DEFAULT
    page = list(itertools.islice((row for row in rows if _wanted(row, request, now)), limit))
    if request.reversed:
        page.reverse()
    return lightning_pb2.ListInvoiceResponse(
        invoices=[invoice_message(row, now) for row in page],
        first_index_offset=page[0].add_index if page else 0,
        last_index_offset=page[-1].add_index if page else 0,
    )


def _wanted(row: InvoiceRow, request: lightning_pb2.ListInvoiceRequest, now: float) -> bool:
    if row.collected or row.created_at < request.creation_date_start:
        return False
    if request.creation_date_end and row.created_at > request.creation_date_end:
        return False
    return not (request.pending_only and (row.settled or row.canceled_at(now)))


def payment_message(row: PaymentRow) -> lightning_pb2.Payment:
    """The payment as the payer's node describes it; fees are nil, because the nodes are neighbours."""
    return lightning_pb2.Payment(
        payment_hash=row.payment_hash.hex(),
        payment_preimage=row.preimage.hex() or "0" * 64,
        value_sat=row.amount_msat // 1000,
        value_msat=row.amount_msat,
        payment_request=row.payment_request,
        status=lightning_pb2.Payment.PaymentStatus.Value(row.status),
        creation_time_ns=row.created_at_ns,
        payment_index=row.number,
        failure_reason=lightning_pb2.PaymentFailureReason.Value(row.failure),
    )


def decoded_message(request: PaymentRequest) -> lightning_pb2.PayReq:
    """What an invoice's text says."""
    return lightning_pb2.PayReq(
        destination=request.payee,
        payment_hash=request.payment_hash.hex(),
        num_satoshis=request.amount_msat // 1000,
        num_msat=request.amount_msat,
        timestamp=request.created_at,
        expiry=request.expiry_seconds,
        description=request.description,
        description_hash=request.description_hash.hex(),
        cltv_expiry=request.cltv_expiry,
        payment_addr=request.payment_secret,
    )
