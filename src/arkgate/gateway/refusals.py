"""What a payer is told when the ledger took no hold."""

from datetime import UTC, datetime

from arkgate.core.catalog import Service
from arkgate.core.errors import (
    AnswerGone,
    AwaitingPayment,
    DailyLimitReached,
    IdempotencyKeyReused,
    InsufficientBalance,
    InternalError,
    InvalidToken,
    Refusal,
    RequestIdReused,
    RequestInFlight,
)
from arkgate.core.ledger import AllowanceState, Balance, Reserved, ReserveOutcome
from arkgate.core.money import Msat, whole_sats


def refusal_for(  # noqa: PLR0911 - one line an outcome
    reserved: Reserved, service: Service, price: Msat, now_ms: int
) -> Refusal:
    """The refusal that the ledger's outcome means."""
    outcome = reserved.outcome
    if outcome is ReserveOutcome.INSUFFICIENT:
        return insufficient(reserved.balance, price, funded=reserved.funded)
    if outcome is ReserveOutcome.LIMIT_REACHED:
        return limit_reached(reserved.allowance, service, now_ms)
    if outcome is ReserveOutcome.IN_FLIGHT:
        return RequestInFlight(
            "This call is still under way. Repeat the same request in a second, with the same "
            "Idempotency-Key if you sent one; do not pay again and do not choose a new key.",
            retry_after_seconds=1,
        )
    if outcome is ReserveOutcome.KEY_REUSED:
        return IdempotencyKeyReused(
            "This Idempotency-Key was used for a different request. Choose a new key for a new request."
        )
    if outcome is ReserveOutcome.ANSWER_GONE:
        return AnswerGone(
            "The call with this Idempotency-Key was made and charged, and its answer is not stored: it was "
            "too large, was not read to its end, or its time is over. To buy a new answer, choose a new key."
        )
    if outcome is ReserveOutcome.REQUEST_ID_REUSED:
        return RequestIdReused(
            "Your X-Request-Id names an earlier call of this account. Fetch its answer with "
            "GET /v1/calls/{request_id}, or send a new id."
        )
    if outcome is ReserveOutcome.UNKNOWN_ACCOUNT:
        return InvalidToken("This credential's account does not exist here.")
    return InternalError(f"The ledger answered {outcome.value} to a new call.")


def insufficient(balance: Balance, price: Msat, *, funded: bool) -> Refusal:
    """The account cannot pay that; or nothing was ever paid into it."""
    needed, available = whole_sats(price, asked_for=True), whole_sats(balance.available)
    fields = {"needed_sats": needed, "available_sats": available}
    if not funded:
        return AwaitingPayment(
            "This token's invoice is not paid yet. Pay it, or ask for another with POST /v1/topups.",
            fields=fields,
        )
    held = f" ({whole_sats(balance.held)} more are held by calls under way)" if balance.held else ""
    return InsufficientBalance(
        f"The call costs {needed} sats and the token has {available}{held}. Top it up with POST /v1/topups.",
        fields=fields,
    )


def limit_reached(allowance: AllowanceState, service: Service, now_ms: int) -> Refusal:
    """The day's allowance is used up."""
    resets_at = datetime.fromtimestamp(allowance.resets_at_ms / 1000, UTC)
    return DailyLimitReached(
        f"This account has had its {service.calls_per_day} calls of the day. The next one is possible at "
        f"{resets_at:%Y-%m-%dT%H:%M:%SZ}; its balance is kept.",
        retry_after_seconds=max(1, -(-(allowance.resets_at_ms - now_ms) // 1000)),
    )
