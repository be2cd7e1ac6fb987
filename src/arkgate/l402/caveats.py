"""Caveats: which conditions a credential is issued with, and which it must still meet.

Source: the L402 macaroon specification and Aperture's satisfiers. A condition that we issue or
document is enforced, and a repeated one may only narrow what stood before; all others are skipped,
as the protocol demands. NOTE: the conditions below are inside credentials that people have paid
for, so none may change its meaning.

    services=<name>:<tier>[,<name>:<tier>]   which services the credential buys
    <name>_valid_until=<unix seconds>        until when it buys that service
    account=<account id>                     repeats the identifier's account; nothing else is valid
    preimage=<hex>                           added by some clients; must be the payment's preimage
"""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

VALID_UNTIL_SUFFIX = "_valid_until"


class CaveatError(ValueError):
    """A caveat that is enforced here cannot be read, contradicts the credential, or widens it."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a credential's caveats allow."""

    services: frozenset[str]
    valid_until: dict[str, int]
    """Unix seconds by service; a service that is not listed has no end."""
    attenuated: bool
    """Whether its holder narrowed it beyond what was issued."""
    preimage: bytes | None
    """The preimage that a client put into a caveat, checked against the payment hash."""

    def buys(self, service: str) -> bool:
        """Whether the credential is for that service at all."""
        return service in self.services

    def expired(self, service: str, now_seconds: float) -> bool:
        """Whether it is too late to buy that service; valid while now is before the time."""
        end = self.valid_until.get(service)
        return end is not None and now_seconds >= end


def issued(service: str, *, valid_until: int, account_id: str | None) -> tuple[str, ...]:
    """The caveats of a new credential; `account_id` only when its payment enters an existing account."""
    caveats = (f"services={service}:0", f"{service}{VALID_UNTIL_SUFFIX}={valid_until}")
    return caveats if account_id is None else (*caveats, f"account={account_id}")


def read_terms(
    caveats: Sequence[bytes], *, payment_hash: bytes, account_id: str, known_services: Collection[str]
) -> Terms:
    """What these caveats allow together. Raises CaveatError, see the top of the module."""
    services: frozenset[str] | None = None
    known = set(known_services)
    valid_until: dict[str, int] = {}
    attenuated = False
    preimage: bytes | None = None
    for condition, value in _conditions(caveats):
        if condition == "services":
            named = _services(value)
            known |= named  # also where the catalog has another name for it today
            attenuated |= services is not None
            services = _narrowed(named, services)
        elif condition == "account":
            if value != account_id:
                raise CaveatError("its account caveat names another account than the one it was issued for")
        elif condition == "preimage":
            preimage = _preimage(value, payment_hash)
        elif (service := condition.removesuffix(VALID_UNTIL_SUFFIX)) != condition and service in known:
            attenuated |= service in valid_until
            valid_until[service] = _time(value, not_after=valid_until.get(service))
    return Terms(services or frozenset(), valid_until, attenuated, preimage)


def preimage_in(caveats: Sequence[bytes]) -> bytes | None:
    """The last preimage that a caveat carries, unchecked: where a client sends no other."""
    found = None
    for condition, value in _conditions(caveats):
        if condition == "preimage" and len(value) == 64:
            try:
                found = bytes.fromhex(value)
            except ValueError:
                continue
    return found


def _conditions(caveats: Sequence[bytes]) -> Iterator[tuple[str, str]]:
    for caveat in caveats:
        try:
            condition, equals, value = caveat.decode().partition("=")
        except UnicodeDecodeError:
            continue
        if equals:
            yield condition.strip(), value.strip()


def _services(value: str) -> frozenset[str]:
    names = set()
    for entry in value.split(","):
        name, colon, tier = entry.partition(":")
        if not (name and colon and tier.isascii() and tier.isdigit() and int(tier) <= 255):
            raise CaveatError("its services caveat cannot be read")
        names.add(name)
    return frozenset(names)


def _narrowed(named: frozenset[str], before: frozenset[str] | None) -> frozenset[str]:
    if before is not None and not named <= before:
        raise CaveatError("a later services caveat allows more than an earlier one")
    return named


def _time(value: str, *, not_after: int | None) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= 12):
        raise CaveatError("its expiry caveat is not a Unix time in seconds")
    moment = int(value)
    if not_after is not None and moment > not_after:
        raise CaveatError("a later expiry caveat ends after an earlier one")
    return moment


def _preimage(value: str, payment_hash: bytes) -> bytes:
    try:
        preimage = bytes.fromhex(value)
    except ValueError:
        preimage = b""
    if len(preimage) != 32 or hashlib.sha256(preimage).digest() != payment_hash:
        raise CaveatError("its preimage caveat does not belong to the payment hash")
    return preimage
