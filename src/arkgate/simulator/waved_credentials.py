"""TLS certificate and macaroons of a simulated waved: as LND's, with permissions of its own."""

from dataclasses import dataclass
from pathlib import Path

from arkgate.simulator import credentials

_ENTITIES = (
    "info",
    "vtxo",
    "address",
    "onchain",
    "oor",
    "round",
    "swap",
    "recovery",
    "fees",
    "activity",
)
READONLY = frozenset(f"{entity}:read" for entity in _ENTITIES)
ADMIN = READONLY | {f"{entity}:write" for entity in _ENTITIES}


@dataclass(frozen=True, slots=True)
class WavedCredentials:
    """Where a waved's credentials are."""

    tls_cert: Path
    tls_key: Path
    admin_macaroon: Path
    readonly_macaroon: Path


def issue(directory: Path, macaroon_key: bytes) -> WavedCredentials:
    """Makes the files, there before there is a wallet."""
    directory.mkdir(parents=True, exist_ok=True)
    found = WavedCredentials(
        directory / "tls.cert",
        directory / "tls.key",
        directory / "admin.macaroon",
        directory / "readonly.macaroon",
    )
    if not found.tls_cert.exists():
        credentials.make_certificate(found)
    for path, permissions in ((found.admin_macaroon, ADMIN), (found.readonly_macaroon, READONLY)):
        if not path.exists():
            macaroon = credentials.bake(macaroon_key, permissions, location="waved")
            credentials.write_secret(path, macaroon)
    return found
