"""Words and numbers that others keep: clients, databases and invoices know them by these values."""

from enum import Enum

import pytest

from arkgate.core import errors, keys, ledger, money, pricing, reports

CODES = {
    "Refusal": "refused",
    "InvalidRequest": "invalid_request",
    "NotSupported": "not_supported",
    "PayloadTooLarge": "payload_too_large",
    "UnsupportedMediaType": "unsupported_media_type",
    "Unprocessable": "unprocessable",
    "NotFound": "not_found",
    "MethodNotAllowed": "method_not_allowed",
    "UpgradeNotSupported": "upgrade_not_supported",
    "InvalidCredential": "invalid_credential",
    "InvalidToken": "invalid_token",
    "MissingCredential": "missing_credential",
    "AttenuatedCredential": "attenuated_credential",
    "PaymentRequired": "payment_required",
    "ForeignHost": "foreign_host",
    "FundedTokenRequired": "funded_token_required",
    "AwaitingPayment": "awaiting_payment",
    "InsufficientBalance": "insufficient_balance",
    "DailyLimitReached": "daily_limit_reached",
    "RateLimited": "rate_limited",
    "RequestInFlight": "request_in_flight",
    "IdempotencyKeyReused": "idempotency_key_reused",
    "RequestIdReused": "request_id_reused",
    "AnswerGone": "answer_gone",
    "SettlementPending": "settlement_pending",
    "NodeUnavailable": "node_unavailable",
    "BackendUnavailable": "backend_unavailable",
    "StoreUnavailable": "store_unavailable",
    "Overloaded": "overloaded",
    "Draining": "draining",
    "Paused": "paused",
    "OperatorOnly": "operator_only",
    "UpstreamError": "upstream_error",
    "UpstreamTimeout": "upstream_timeout",
    "BackendRejected": "rejected_by_backend",
    "InternalError": "internal_error",
}
VALUES: dict[type[Enum], list[object]] = {
    keys.PurposeKind: [1, 2, 3],
    ledger.InvoiceState: ["open", "settled", "expired", "cancelled"],
    ledger.HoldState: ["open", "settled", "released"],
    ledger.FundOutcome: ["applied", "replayed", "foreign", "waiting"],
    ledger.ReserveOutcome: [
        "unknown_account",
        "replayed",
        "in_flight",
        "key_reused",
        "answered",
        "answer_gone",
        "request_id_reused",
        "limit_reached",
        "insufficient",
        "reserved",
    ],
    ledger.SettleOutcome: ["settled", "replayed", "released"],
    ledger.ReleaseOutcome: ["released", "replayed", "settled"],
    pricing.BalanceExpiry: ["never"],
    reports.AccountAge: ["under 30 days", "30 to 90 days", "90 to 365 days", "365 days and more"],
    reports.AccountState: ["active", "empty", "awaiting payment", "expired"],
}


def test_a_refusals_code_is_what_programs_branch_on() -> None:
    found = {
        name: refusal.code
        for name, refusal in vars(errors).items()
        if isinstance(refusal, type) and issubclass(refusal, errors.Refusal)
    }

    assert found == CODES
    assert errors.IN_DOUBT == "store_in_doubt"


@pytest.mark.parametrize(
    ("words", "values"), VALUES.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_a_word_is_the_one_that_is_stored_and_shown(words: type[Enum], values: list[object]) -> None:
    assert [word.value for word in words] == values


def test_every_word_is_kept_here() -> None:
    modules = (keys, ledger, pricing, reports)
    found = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Enum) and value.__module__ == module.__name__
    }

    assert found == VALUES.keys()


def test_shared_accounts_and_facts_keep_their_names() -> None:
    assert (ledger.INCOME_ACCOUNT, ledger.EXPENSE_ACCOUNT) == ("income:calls", "expense:fees")
    assert ledger.EQUITY_ACCOUNT == "equity:operator"
    assert ledger.node_account("lnd") == "asset:node:lnd"
    assert ledger.credit_id(b"\x01\xff") == "credit:01ff"
    assert ledger.charge_id("c1") == "charge:c1"
    assert (reports.PAUSED_FACT, reports.BACKUP_FACT) == ("paused_since_ms", "restored_from_ms")


def test_amounts_and_times_are_what_they_are_promised_to_be() -> None:
    assert money.MSAT_PER_SAT == 1000
    assert money.SATS_MAX == 21_000_000 * 100_000_000
    assert ledger.GRACE_MS_MIN == 30 * 24 * 60 * 60 * 1000
    assert len("a1" * 16) == keys.ACCOUNT_ID_BYTES * 2


def test_nothing_is_read_paid_or_owed_before_anybody_says_so() -> None:
    assert ledger.Cursor() == ledger.Cursor(add_index=0, settle_index=0)
    assert reports.Owed() == reports.Owed(accounts=0, posted=money.Msat(0), held=money.Msat(0))
    assert ledger.Finding(1, True, "holds").checked
    made = ledger.InvoiceRecord(
        payment_hash=b"",
        account_id="",
        node="",
        purpose="",
        payment_request="",
        amount=money.Msat(1),
        state=ledger.InvoiceState.OPEN,
        created_at_ms=0,
        expires_at_ms=0,
    )
    assert made.amount_paid == 0
    nothing = ledger.Balance(money.Msat(0), money.Msat(0))
    assert ledger.Reserved(ledger.ReserveOutcome.RESERVED, nothing, ledger.AllowanceState(0, None, 0)).funded


def test_a_balance_is_available_where_it_is_not_held_and_calls_are_left_down_to_none() -> None:
    assert ledger.Balance(money.Msat(5), money.Msat(2)).available == 3
    assert [ledger.AllowanceState(used, 5, 0).left for used in (0, 4, 5, 6)] == [5, 1, 0, 0]
    assert ledger.AllowanceState(9, None, 0).left is None
