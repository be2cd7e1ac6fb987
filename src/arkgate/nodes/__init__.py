"""Payment nodes by the word that names them in the settings."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from arkgate.nodes.channel import MutualTls, NodeCredentials
from arkgate.nodes.cln import ClnNode
from arkgate.nodes.lnd import LndNode
from arkgate.ports import PaymentNode


@dataclass(frozen=True, slots=True)
class NodeKind:
    """What a kind of node needs of the settings, and how it is built."""

    files: tuple[str, ...]
    """The settings that name its files; they are fields of its credentials, too."""
    credentials: Callable[..., NodeCredentials | MutualTls]
    build: Callable[..., PaymentNode]
    tls_server_name: str = ""
    """The name in its certificate unless the settings say another; empty: the host of its address."""


NODE_KINDS: Final[dict[str, NodeKind]] = {
    "lnd": NodeKind(("tls_cert_file", "macaroon_file"), NodeCredentials, LndNode),
    "cln": NodeKind(
        ("ca_cert_file", "client_cert_file", "client_key_file"), MutualTls, ClnNode, tls_server_name="cln"
    ),
}
