"""Refusals as values: a sentence, a reason that programs branch on, and the fields that belong to it."""

from arkgate.core.errors import (
    BackendRejected,
    InvalidRequest,
    MethodNotAllowed,
    PaymentRequired,
    Refusal,
)
from arkgate.core.ledger import AllowanceState, Balance, Standing
from arkgate.core.money import Msat
from arkgate.core.pricing import Bundle, Challenge, Quote

CHALLENGE = Challenge(
    quote=Quote("ai_chat", Msat(50_000), None),
    bundle=Bundle(1, Msat(50_000)),
    macaroon="AgE=",
    payment_request="lnbc1",
    payment_hash=bytes(32),
    expires_at_ms=1,
)


def test_a_refusal_is_its_sentence_under_its_own_code() -> None:
    refusal = InvalidRequest("The body is no JSON")

    assert str(refusal) == refusal.message == "The body is no JSON"
    assert refusal.reason == InvalidRequest.code == "invalid_request"
    assert refusal.retry_after_seconds is None
    assert refusal.fields == {}
    assert refusal.standing is None


def test_a_refusal_may_have_a_code_a_time_and_fields_of_its_own() -> None:
    fields: dict[str, object] = {"limit": 5}
    refusal = Refusal("No", code="other", retry_after_seconds=7, fields=fields)
    fields["limit"] = 6

    assert (refusal.reason, refusal.retry_after_seconds) == ("other", 7)
    assert refusal.fields == {"limit": 5}


def test_a_refusal_with_a_standing_is_the_same_refusal() -> None:
    standing = Standing(Balance(Msat(2), Msat(1)), AllowanceState(0, None, 0))
    refusal = InvalidRequest("No")

    assert refusal.with_standing(standing) is refusal
    assert refusal.standing is standing


def test_what_belongs_to_a_refusal_is_carried_with_its_sentence() -> None:
    not_allowed = MethodNotAllowed("Use POST", allowed="POST")
    rejected = BackendRejected("Too long", status=422)
    unpaid = PaymentRequired("Pay first", CHALLENGE)
    renewed = PaymentRequired("Pay first", CHALLENGE, code="balance_spent")

    assert (str(not_allowed), not_allowed.allowed) == ("Use POST", "POST")
    assert (str(rejected), rejected.status) == ("Too long", 422)
    assert (str(unpaid), unpaid.challenge, unpaid.reason) == ("Pay first", CHALLENGE, "payment_required")
    assert (renewed.challenge, renewed.reason) == (CHALLENGE, "balance_spent")
