"""Payment nodes by the word that names them in the settings."""

from collections.abc import Callable
from typing import Final

from arkgate.nodes.lnd import LndNode

NODE_KINDS: Final[dict[str, Callable[..., LndNode]]] = {"lnd": LndNode}
