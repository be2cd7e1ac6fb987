"""Payment nodes by the word that names them in the settings."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from arkgate.core.money import Msat, sats
from arkgate.nodes import barkd_fees, fulmine_boltz
from arkgate.nodes.barkd import BarkdNode
from arkgate.nodes.barkd_rest import BearerToken
from arkgate.nodes.channel import MutualTls, NodeCredentials
from arkgate.nodes.cln import ClnNode
from arkgate.nodes.fulmine import FulmineCredentials, FulmineNode
from arkgate.nodes.lnd import LndNode
from arkgate.nodes.waved import WavedNode
from arkgate.ports import PaymentNode

ARK_SETTINGS: Final = ("lightning", "ark_addresses", "ark_instant_sats")
"""The settings of nodes that may give out Ark addresses."""


@dataclass(frozen=True, slots=True)
class NodeKind:
    """What a kind of node needs of the settings, and how it is built."""

    files: tuple[str, ...]
    """The settings that name its files; they are fields of its credentials, too."""
    credentials: Callable[..., NodeCredentials | MutualTls | BearerToken | FulmineCredentials]
    build: Callable[..., PaymentNode]
    has_tls: bool = True
    """Whether it is reached over TLS; else in plain text, which belongs on private networks."""
    tls_server_name: str = ""
    """The name in its certificate unless the settings say another; empty: the host of its address."""
    minimum: Msat = sats(1)
    """The smallest invoice to ask it for, unless the settings say another."""
    usual_fee: Callable[[Msat], Msat] = lambda _: Msat(0)
    """What its service usually keeps of a payment."""

    urls: tuple[str, ...] = ()
    """The settings that name services beside it; they are fields of its credentials, too."""

    ark_name: str = ""
    """Where it is a `ports.ArkWallet`, too: which Ark its addresses are of, as payers know it."""

    @property
    def has_ark_addresses(self) -> bool:
        """Whether it gives out Ark addresses."""
        return bool(self.ark_name)

    @property
    def settings(self) -> tuple[str, ...]:
        """The settings that not every kind has."""
        tls = ("tls_server_name",) if self.has_tls else ()
        return (*self.files, *self.urls, *tls, *(ARK_SETTINGS if self.has_ark_addresses else ()))


NODE_KINDS: Final[dict[str, NodeKind]] = {
    "lnd": NodeKind(("tls_cert_file", "macaroon_file"), NodeCredentials, LndNode),
    "cln": NodeKind(
        ("ca_cert_file", "client_cert_file", "client_key_file"), MutualTls, ClnNode, tls_server_name="cln"
    ),
    "barkd": NodeKind(
        ("token_file",),
        BearerToken,
        BarkdNode,
        has_tls=False,
        minimum=barkd_fees.MINIMUM,
        usual_fee=barkd_fees.usual_fee,
        ark_name="bark, the Ark of Second",
    ),
    "fulmine": NodeKind(
        ("macaroon_file",),
        FulmineCredentials,
        FulmineNode,
        has_tls=False,
        minimum=fulmine_boltz.MINIMUM,
        usual_fee=fulmine_boltz.usual_fee,
        urls=("boltz_url",),
    ),
    "waved": NodeKind(("tls_cert_file", "macaroon_file"), NodeCredentials, WavedNode),
}
