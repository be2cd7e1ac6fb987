"""Every refusal of the gateway as one small tree; it knows no HTTP.

    Refusal
      InvalidRequest, NotSupported, PayloadTooLarge, UnsupportedMediaType, Unprocessable
      NotFound, MethodNotAllowed, UpgradeNotSupported
      InvalidCredential, InvalidToken, MissingCredential, AttenuatedCredential
      PaymentRequired, FundedTokenRequired, AwaitingPayment, InsufficientBalance
      DailyLimitReached, RateLimited, OperatorOnly, ForeignHost
      RequestInFlight, IdempotencyKeyReused, RequestIdReused, AnswerGone
      SettlementPending, NodeUnavailable, BackendUnavailable, StoreUnavailable, Overloaded, Draining,
      Paused
      UpstreamError, UpstreamTimeout, BackendRejected
      InternalError

A refusal is a sentence its reader can act on, a code that programs can branch on, and the fields
that belong to it. `web.errors` holds the one table from these types to statuses.
"""

from collections.abc import Mapping
from typing import ClassVar, Self

from arkgate.core.ledger import Standing
from arkgate.core.pricing import Challenge


class Refusal(Exception):  # noqa: N818 - a refusal is an answer, not a fault of this program
    """Something the gateway will not do, said so that its reader can act.

    `retry_after_seconds` is true: retrying earlier cannot help. `fields` go into the answer's body.
    """

    code: ClassVar[str] = "refused"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        retry_after_seconds: int | None = None,
        fields: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = code or self.code
        self.retry_after_seconds = retry_after_seconds
        self.fields: dict[str, object] = dict(fields or {})
        self.nothing_begun = False
        """Whether whoever was asked has certainly not begun with the work, so that another may be asked."""
        self.standing: Standing | None = None
        """The caller's account after the refusal, where it is known."""

    def with_standing(self, standing: Standing) -> Self:
        """The same refusal, told to the owner of an account."""
        self.standing = standing
        return self


def bare(error: BaseException) -> None:
    """Takes the frames from an exception that is kept, and from what caused it.

    They hold the request, maybe 64 MiB of it, and what keeps the exception: only the collector of garbage
    would find that, and large bodies do not call it.
    """
    one: BaseException | None = error
    while one is not None:
        one.__traceback__ = one.__context__ = None
        one = one.__cause__


class InvalidRequest(Refusal):
    """The request cannot be read or breaks a stated limit; the caller must change it."""

    code = "invalid_request"


class NotSupported(Refusal):
    """The request asks for something that this gateway does not offer."""

    code = "not_supported"


class PayloadTooLarge(Refusal):
    """The body, or a part of it, is over a stated limit."""

    code = "payload_too_large"


class UnsupportedMediaType(Refusal):
    """The body's type or encoding is not one that can be read here."""

    code = "unsupported_media_type"


class Unprocessable(Refusal):
    """The request reads well and asks for something impossible."""

    code = "unprocessable"


class NotFound(Refusal):
    """There is nothing here under that name, or not for this caller."""

    code = "not_found"


class MethodNotAllowed(Refusal):
    """The path exists and answers to other methods: those in `allowed`, separated by commas."""

    code = "method_not_allowed"

    def __init__(self, message: str, *, allowed: str) -> None:
        super().__init__(message)
        self.allowed = allowed


class UpgradeNotSupported(Refusal):
    """The client would go on with another protocol than HTTP."""

    code = "upgrade_not_supported"


class InvalidCredential(Refusal):
    """An L402 credential that is forged, malformed, or comes with the wrong preimage."""

    code = "invalid_credential"


class InvalidToken(Refusal):
    """An `ak_` token that was never given out."""

    code = "invalid_token"


class MissingCredential(Refusal):
    """A route that needs to know the account was asked without a credential."""

    code = "missing_credential"


class AttenuatedCredential(Refusal):
    """A credential that its holder narrowed was used where only the whole one may be."""

    code = "attenuated_credential"


class PaymentRequired(Refusal):
    """The call has to be paid first; carries the challenge that says how."""

    code = "payment_required"

    def __init__(self, message: str, challenge: Challenge, *, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.challenge = challenge


class FundedTokenRequired(Refusal):
    """The call has to be paid first, and only a funded token can: no node makes invoices."""

    code = "funded_token_required"


class AwaitingPayment(Refusal):
    """The token exists and none of its invoices has been paid."""

    code = "awaiting_payment"


class InsufficientBalance(Refusal):
    """The token's balance does not cover the call."""

    code = "insufficient_balance"


class DailyLimitReached(Refusal):
    """The account has had the calls that one day allows."""

    code = "daily_limit_reached"


class RateLimited(Refusal):
    """Too many unpaid challenges or sessions, from this client or from all."""

    code = "rate_limited"


class RequestInFlight(Refusal):
    """A call with this idempotency key is still under way."""

    code = "request_in_flight"


class IdempotencyKeyReused(Refusal):
    """The idempotency key was used for a different request."""

    code = "idempotency_key_reused"


class RequestIdReused(Refusal):
    """The caller's own request id names another call of this account."""

    code = "request_id_reused"


class AnswerGone(Refusal):
    """The call was charged and no answer of it is stored, or no longer."""

    code = "answer_gone"


class SettlementPending(Refusal):
    """The preimage is right and the node does not report the payment as settled yet."""

    code = "settlement_pending"


class NodeUnavailable(Refusal):
    """The payment node cannot be asked now."""

    code = "node_unavailable"

    @property
    def is_away(self) -> bool:
        """Whether the node could not be asked at all.

        A connection that fails has the transport's error as its cause; an answer that was read and cannot
        be believed (another invoice) has none, and asking again may not mend it.
        """
        return self.__cause__ is not None


class BackendUnavailable(Refusal):
    """The backend cannot take calls now; nothing was held."""

    code = "backend_unavailable"


IN_DOUBT = "store_in_doubt"
"""The reason of a StoreUnavailable whose change was sent and may have been made all the same."""


class StoreUnavailable(Refusal):
    """The ledger cannot be written now; nothing was held, unless its reason is IN_DOUBT."""

    code = "store_unavailable"


class Overloaded(Refusal):
    """More calls are under way than the operator allows; nothing was held."""

    code = "overloaded"


class Draining(Refusal):
    """The gateway is shutting down; nothing was held."""

    code = "draining"


class Paused(Refusal):
    """The books were restored and do not know yet what was paid since; nothing was held."""

    code = "paused"


class OperatorOnly(Refusal):
    """A command of the operator's that came from elsewhere than the operator's own program."""

    code = "operator_only"


class ForeignHost(Refusal):
    """A browser's page reached the gateway under a name that is not its own."""

    code = "foreign_host"


class UpstreamError(Refusal):
    """The backend took the call and failed; the hold is released."""

    code = "upstream_error"
    is_too_large = False
    """Whether the answer had more bytes than may be handed on."""


class UpstreamTimeout(Refusal):
    """The backend took the call and did not answer in time; the hold is released."""

    code = "upstream_timeout"


class BackendRejected(Refusal):
    """The backend found the caller's request wrong; its status is passed on and nothing is charged."""

    code = "rejected_by_backend"

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class InternalError(Refusal):
    """A fault of this program; nothing was charged."""

    code = "internal_error"
