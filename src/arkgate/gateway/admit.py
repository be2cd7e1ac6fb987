"""Admission: from what a request presents to the account that pays for it."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

import structlog

from arkgate.core.errors import (
    AttenuatedCredential,
    InvalidCredential,
    InvalidToken,
    MissingCredential,
    NodeUnavailable,
    Refusal,
    SettlementPending,
)
from arkgate.core.keys import Keyring, token_digest
from arkgate.gateway.fund import Funding
from arkgate.l402.caveats import CaveatError, Terms, read_terms
from arkgate.l402.header import Credential, Presented, Token, Unreadable
from arkgate.l402.identifier import Identifier, IdentifierError
from arkgate.ports import Statements

log = structlog.get_logger()
REMEMBERED_MAX = 20_000


@dataclass(frozen=True, slots=True)
class Proof:
    """An L402 credential that verified: whose account it opens, and what it still allows."""

    identifier: Identifier
    terms: Terms


@dataclass(frozen=True, slots=True)
class Admitted:
    """Who pays. `proof` is None for an `ak_` token, which buys every service for ever."""

    account_id: str
    proof: Proof | None = None

    @property
    def is_whole(self) -> bool:
        """Whether its holder has not narrowed it: only the whole credential stands for the account."""
        return self.proof is None or not self.proof.terms.attenuated

    def objection(self, service: str, now_seconds: float) -> tuple[str, str] | None:
        """Why this credential does not buy that service now: a code and a sentence. None: it does."""
        if self.proof is None:
            return None
        if not self.proof.terms.buys(service):
            return "wrong_service", f"This credential was bought for another service than {service}."
        if self.proof.terms.expired(service, now_seconds):
            return "credential_expired", "This credential has expired; its balance is kept."
        return None


class Admission:
    """Verifies credentials. A verified one is remembered, so that the next call costs a look-up."""

    def __init__(
        self, keyring: Keyring, statements: Statements, funding: Funding, services: frozenset[str]
    ) -> None:
        self._keyring = keyring
        self._statements = statements
        self._funding = funding
        self._services = services
        self._remembered: OrderedDict[bytes, Admitted] = OrderedDict()

    async def admit(self, presented: tuple[Presented, ...]) -> Admitted | None:
        """The first credential that verifies; None when none was presented.

        Raises InvalidCredential or InvalidToken when none verifies, and rather SettlementPending or
        NodeUnavailable when a right one is among them that cannot be confirmed yet.
        """
        invalid: Refusal | None = None
        unconfirmed: Refusal | None = None
        for one in _different(presented):
            admitted = None if isinstance(one, Unreadable) else self._remembered.get(_digest(one.text))
            if admitted is not None:
                return admitted
            try:
                return await self._verify(one)
            except (InvalidCredential, InvalidToken) as error:
                invalid = invalid or error
            except (SettlementPending, NodeUnavailable) as error:
                unconfirmed = unconfirmed or error
        refusal = unconfirmed or invalid
        if refusal is not None:
            raise refusal
        return None

    async def require(self, presented: tuple[Presented, ...], *, whole: bool = False) -> Admitted:
        """As `admit`, and refuses a request without credential; `whole` refuses a narrowed one, too."""
        admitted = await self.admit(presented)
        if admitted is None:
            raise MissingCredential(
                "This route needs your credential: send Authorization: Bearer ak_… or "
                "Authorization: L402 <macaroon>:<preimage>."
            )
        if whole and not admitted.is_whole:
            raise AttenuatedCredential(
                "This credential was narrowed by its holder; only the whole one may be used here."
            )
        return admitted

    async def _verify(self, one: Presented) -> Admitted:
        if isinstance(one, Unreadable):
            raise (InvalidToken if one.is_token else InvalidCredential)(_as_sentence(one.reason))
        if isinstance(one, Token):
            account_id = await self._statements.account_by_token(token_digest(one.text))
            if account_id is None:
                raise InvalidToken(
                    "This token is not known here. Check that it is complete, or fund a new one."
                )
            admitted = Admitted(account_id)
        else:
            proof = self._prove(one)
            account_id = await self._funding.account_of(proof.identifier)
            admitted = Admitted(account_id, proof)
            if one.reencoded_preimage:
                log.info("preimage came base64-decoded once too often", client="l402-requests with LND REST")
        self._remember(_digest(one.text), admitted)
        return admitted

    def _prove(self, credential: Credential) -> Proof:
        """Checks signature, preimage and caveats of every macaroon. Raises InvalidCredential."""
        payment_hash = hashlib.sha256(credential.preimage).digest()
        proofs = []
        for macaroon in credential.macaroons:
            try:
                identifier = Identifier.decode(macaroon.identifier)
                root_key = self._keyring.root_key(macaroon.identifier, version=identifier.key_version)
                if root_key is None or not macaroon.signed_with(root_key):
                    raise InvalidCredential("The macaroon was not issued here, or was changed.")
                if identifier.payment_hash != payment_hash:
                    raise InvalidCredential("The preimage does not belong to the macaroon's invoice.")
                terms = read_terms(
                    macaroon.caveats,
                    payment_hash=payment_hash,
                    account_id=identifier.account_id,
                    known_services=self._services,
                )
            except (IdentifierError, CaveatError) as error:
                raise InvalidCredential(_as_sentence(str(error))) from error
            proofs.append(Proof(identifier, terms))
        return _joined(proofs)

    def _remember(self, digest: bytes, admitted: Admitted) -> None:
        self._remembered[digest] = admitted
        if len(self._remembered) > REMEMBERED_MAX:
            self._remembered.popitem(last=False)


def _different(presented: tuple[Presented, ...]) -> Iterable[Presented]:
    """Each credential once: Aperture sends the same one as LSAT and as L402."""
    return presented if len(presented) == 1 else dict.fromkeys(presented)


def _digest(text: str) -> bytes:
    """What is remembered of a credential: short, and nothing that could be spent."""
    return hashlib.sha256(text.encode()).digest()


def _joined(proofs: list[Proof]) -> Proof:
    """Several macaroons of one payment allow what all of them allow."""
    first = proofs[0]
    for other in proofs[1:]:
        if other.identifier.account_id != first.identifier.account_id:
            raise InvalidCredential("The macaroons belong to different accounts.")
        services = first.terms.services & other.terms.services
        ends = {**other.terms.valid_until, **first.terms.valid_until}
        for service, end in other.terms.valid_until.items():
            ends[service] = min(end, ends[service])
        first = Proof(first.identifier, Terms(services, ends, True, first.terms.preimage))
    return first


def _as_sentence(reason: str) -> str:
    return f"The credential cannot be used: {reason}."
