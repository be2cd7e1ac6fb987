"""What Core Lightning's plugin cln-grpc answers with: errors in plain words, networks by BOLT11's names.

Sources: cln-grpc's server.rs, where every error of lightningd becomes status UNKNOWN with its number in the
text, and common/jsonrpc_errors.h.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import grpc.aio

from arkgate._proto.cln import node_pb2 as cln
from arkgate.core.errors import NodeUnavailable
from arkgate.nodes.channel import RETRY_AFTER_SECONDS, CredentialsRefused, map_grpc_errors

LABEL = "arkgate-"
"""What the labels of our invoices begin with; the payment hash follows."""
TIMED_OUT = 904
"""Nothing was paid in the time that was asked for."""
_ERROR = re.compile(r'RpcError \{ code: (?:Some\((-?\d+)\)|None), message: ("(?:[^"\\]|\\.)*")')
_STRANGERS = ("Unwrap failed", "Socket closed", "handshake", "Verification Check failed")
"""What gRPC says of a connection that TLS ended, at one side or the other."""
_NETWORKS = {"bitcoin": "mainnet", "testnet4": "testnet"}
"""The networks whose names differ from BOLT11's."""


def label_of(payment_hash: bytes) -> str:
    """What our invoice is called on the node: unique, and says whose it is."""
    return LABEL + payment_hash.hex()


def network_of(info: cln.GetinfoResponse) -> str:
    """The node's network as our settings call it."""
    return _NETWORKS.get(info.network, info.network)


def behind(info: cln.GetinfoResponse) -> str:
    """Why the node is not synced, in its own words; empty when it is."""
    return info.warning_bitcoind_sync or info.warning_lightningd_sync


@contextmanager
def map_cln_errors(node: str, action: str) -> Iterator[None]:
    """As `map_grpc_errors`, with lightningd's own words in place of the plugin's.

    Raises CredentialsRefused where TLS fails: one side does not know the other's certificate.
    """
    try:
        with map_grpc_errors(node, action):
            yield
    except NodeUnavailable as refusal:
        cause = refusal.__cause__
        details = cause.details() or "" if isinstance(cause, grpc.aio.AioRpcError) else ""
        if details.startswith("failed to connect") and any(word in details for word in _STRANGERS):
            raise CredentialsRefused(
                f"node {node} and we are strangers in TLS: the files of [[nodes]] must be its own "
                f"({details.rpartition(': ')[2] or details})",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            ) from cause
        found = _ERROR.search(details)
        if found is None:
            raise
        number = f" (error {found[1]})" if found[1] else ""
        sentence = f"node {node} failed {action}: {_unquoted(found[2])}{number}"
        raise NodeUnavailable(sentence, retry_after_seconds=RETRY_AFTER_SECONDS) from cause


def error_code(refusal: NodeUnavailable) -> int | None:
    """The number of lightningd's error; None when there was none."""
    cause = refusal.__cause__
    found = _ERROR.search(cause.details() or "") if isinstance(cause, grpc.aio.AioRpcError) else None
    return int(found[1]) if found and found[1] else None


def _unquoted(text: str) -> str:
    """A string as Rust quotes it; where that differs from JSON, as it stands."""
    try:
        return str(json.loads(text))
    except ValueError:
        return text.strip('"')
