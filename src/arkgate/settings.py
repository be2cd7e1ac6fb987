"""The settings: one TOML file, read once into frozen values, with every problem said in a sentence."""

import contextlib
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from arkgate.core.catalog import Catalog
from arkgate.core.money import Msat, sats, whole_sats
from arkgate.core.pricing import BalanceExpiry, bundle_for
from arkgate.gateway.challenge import ChallengeTerms
from arkgate.gateway.doctor import NodeDuty
from arkgate.gateway.limits import Rate
from arkgate.gateway.sessions import SessionTerms
from arkgate.gateway.traffic import TrafficTerms
from arkgate.nodes import NODE_KINDS, NodeKind
from arkgate.nodes.barkd_fees import is_dear
from arkgate.settings_offers import Offers, OffersReader
from arkgate.settings_table import Address, Notes, Setting, Table, is_port
from arkgate.web.client import Network

DEFAULT_FILE = "arkgate.toml"
CLIENTS_PAY_AT_MOST_SATS = 1000
NETWORKS = ("mainnet", "testnet", "signet", "regtest", "simnet")
LOG_LEVELS = ("debug", "info", "warning", "error")
_NODE_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}\Z")


class SettingsError(Exception):
    """The settings cannot be used; one sentence for each problem."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """A payment node: what it is, where it is, and what opens it."""

    kind: str
    name: str
    number: int
    address: str
    files: Mapping[str, Path]
    """What opens it, by the names of the settings."""
    urls: Mapping[str, str]
    """Services beside it, by the names of the settings."""
    tls_server_name: str | None
    network: str | None
    minimum: Msat
    maximum: Msat
    lightning: bool
    """Whether it makes invoices."""
    ark_addresses: bool
    """Whether it gives out Ark addresses."""
    ark_instant_max: Msat
    """Up to how much that comes in at one address is credited before it is final."""

    @property
    def duty(self) -> NodeDuty:
        """What it is there for."""
        return NodeDuty(invoices=self.lightning, addresses=self.ark_addresses)


@dataclass(frozen=True, slots=True)
class Limits:
    """How many unpaid challenges and sessions are made, and how fast paid calls may come."""

    challenges_client: Rate
    challenges_all: Rate
    sessions_client: Rate
    sessions_all: Rate
    traffic: TrafficTerms
    bodies_bytes: int
    """What large bodies may take of the memory while they are read and served."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that an operator decides."""

    file: Path
    """Where they were read: no setting itself."""
    listen: Address
    operator_listen: Address
    public_url: str
    site_name: str
    """What pages and maps call this gateway."""
    contact: str
    """How the operator is reached; empty where nobody is told."""
    trusted_proxies: tuple[Network, ...]
    log_level: str
    grace_seconds: float
    store_url: str
    log_bytes: int
    """What SQLite's write-ahead log takes on disk."""
    keys_file: Path
    nodes: tuple[NodeSettings, ...]
    offers: Offers
    call_deadline_seconds: float
    """How long a hold lives: the longest of the backends' total timeouts and a margin to settle in."""
    answers_kept_seconds: int
    unpaid_kept_days: int
    """How long after its expiry an invoice that nobody paid stays in the books."""
    catalog: Catalog
    challenge: ChallengeTerms
    append_token: bool
    sessions: SessionTerms
    limits: Limits
    warnings: tuple[str, ...] = field(default=())


def load(path: Path) -> Settings:
    """Reads the settings of a file. Raises SettingsError with all problems at once."""
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        reason = error.strerror or "unreadable"
        raise SettingsError([f"{path} cannot be read: {reason}. `arkgate init` writes one."]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError([f"{path} is not valid TOML: {error}."]) from error
    return _Reader(path, document).settings()


def known() -> Mapping[str, Sequence[Setting]]:
    """Every setting that is read, in the order of the reading, by the kind of node that it is read with."""
    found = {}
    for kind in NODE_KINDS:
        document = {
            "nodes": [{"kind": kind}],
            "services": [{}, {"kind": "http"}],
            "models": [{}],
            "backend": {"url": ""},
            "backends": [{}],
        }
        reader = _Reader(Path(DEFAULT_FILE), document)
        with contextlib.suppress(SettingsError):  # much is missing
            reader.settings()
        found[kind] = tuple(reader.notes.settings.values())
    return found


class _Reader:
    """Reads a document and collects what is wrong with it."""

    def __init__(self, path: Path, document: Mapping[str, object]) -> None:
        self._path = path.absolute()
        self.notes = Notes()
        self._problems = self.notes.problems
        self._document = Table("", document, self.notes, self._path.parent)

    def settings(self) -> Settings:
        gateway = self._document.table("gateway")
        l402 = self._document.table("l402")
        store = self._document.table("store")
        listen = gateway.address("listen", "127.0.0.1:8402")
        nodes = self._nodes()
        offers = OffersReader(self._document, self.notes).read()
        call_timeout = 120.0 if offers is None else offers.total_timeout_seconds
        hold_margin = 60.0 if offers is None else offers.hold_margin_seconds
        sessions = self._sessions()
        values = {
            "file": self._path,
            "listen": listen,
            "operator_listen": gateway.address("operator_listen", "127.0.0.1:8403"),
            "public_url": gateway.url("public_url", f"http://{listen.host}:{listen.port}").rstrip("/"),
            "site_name": gateway.text("name", "arkgate"),
            "contact": gateway.contact("contact"),
            "trusted_proxies": gateway.networks("trusted_proxies"),
            "log_level": gateway.one_of("log_level", LOG_LEVELS, "info"),
            "grace_seconds": gateway.number("grace_seconds", call_timeout + 10, 1, 3600),
            "store_url": self._store_url(store),
            "log_bytes": int(store.number("log_megabytes", 80, 1, 900)) * 1024 * 1024,
            "keys_file": store.path("keys_file", "arkgate-keys.json"),
            "nodes": nodes,
            "call_deadline_seconds": call_timeout + hold_margin,
            "offers": offers,
            "answers_kept_seconds": int(store.number("answers_kept_hours", 24, 24, 24 * 365) * 3600),
            "unpaid_kept_days": int(store.number("unpaid_kept_days", 90, 30, 3650)),
            "catalog": None
            if offers is None
            else replace(offers.catalog, balance_expiry=sessions.balance_expiry),
            "challenge": replace(self._challenge(l402), balance_expiry=sessions.balance_expiry),
            "append_token": l402.flag("append_version_and_token", default=False),
            "sessions": sessions,
            "limits": self._limits(),
        }
        if values["listen"] == values["operator_listen"]:
            self._problems.append("[gateway] listen and operator_listen are the same address.")
        for table in (gateway, l402, store, self._document):
            table.refuse_unknown()
        if self._problems:
            raise SettingsError(self._problems)
        return _with_warnings(Settings(**values))  # type: ignore[arg-type]  # each value was read as its field's type

    def _store_url(self, store: "Table") -> str:
        url = store.text("url", "sqlite:///arkgate.db")
        if url.startswith(("postgresql://", "postgres://")):
            if not _names_a_database(url):
                self._problems.append('[store] url must look like "postgresql://user@host/database".')
            return url
        if not url.startswith("sqlite:///") or url.endswith("/"):
            self._problems.append(
                '[store] url must look like "sqlite:///arkgate.db" or "postgresql://user@host/database".'
            )
            return url
        return f"sqlite:///{(self._path.parent / url.removeprefix('sqlite:///')).absolute()}"

    def _nodes(self) -> tuple[NodeSettings, ...]:
        tables = self._document.tables("nodes")
        if not tables:
            self._problems.append("There is no [[nodes]] entry: name the node that makes the invoices.")
        nodes = tuple(self._node(table, alone=len(tables) == 1) for table in tables)
        numbers = [node.number for node, table in zip(nodes, tables, strict=True) if "number" in table.given]
        for name, values in (("name", [node.name for node in nodes]), ("number", numbers)):
            for value, times in Counter(values).items():
                if times > 1:
                    self._problems.append(
                        f"[[nodes]] {name} {value} is given to {times} nodes: each needs its own."
                    )
        return nodes

    def _node(self, table: "Table", *, alone: bool) -> NodeSettings:
        if not alone and "number" not in table.given:
            self._problems.append(
                f"{table.where} number is missing: it stands in every credential that the node's invoices "
                "pay for. Give each node one that it keeps for ever; the first one you had is 0."
            )
        word = table.one_of("kind", tuple(NODE_KINDS), "lnd")
        kind = NODE_KINDS[word]
        node = NodeSettings(
            kind=word,
            name=table.matching("name", _NODE_NAME, word),
            number=int(table.number("number", 0, 0, 0xFFFF)),
            address=table.text("address"),
            files={name: table.file(name) for name in kind.files},
            urls={name: table.service(name) for name in kind.urls},
            tls_server_name=(
                (table.text("tls_server_name", kind.tls_server_name) or None) if kind.has_tls else None
            ),
            network=table.one_of("network", (*NETWORKS, ""), "") or None,
            minimum=sats(int(table.number("minimum_sats", whole_sats(kind.minimum), 1, 1_000_000))),
            maximum=sats(int(table.number("maximum_sats", 1_000_000, 1, 100_000_000))),
            **_ark(table, kind),
        )
        host, _, port = node.address.rpartition(":")
        if node.address and not (re.fullmatch(r"[^\s/:]+|\[[0-9a-fA-F:]+\]", host) and is_port(port)):
            self._problems.append(f"{table.where} address must be host:port, like 127.0.0.1:10009.")
        if not node.lightning and not node.ark_addresses:
            self._problems.append(f"{table.where} lightning and ark_addresses are both false: leave it out.")
        if node.minimum > node.maximum:
            self._problems.append(f"{table.where} minimum_sats is above maximum_sats.")
        table.refuse_unknown(_of_other_kinds(word))
        return node

    def _challenge(self, table: "Table") -> ChallengeTerms:
        return ChallengeTerms(
            calls=int(table.number("challenge_calls", 1, 1, 100_000)),
            expiry_seconds=int(table.number("invoice_expiry_seconds", 600, 60, 86_400)),
            credential_days=int(table.number("credential_days", 365, 1, 3650)),
        )

    def _sessions(self) -> SessionTerms:
        table = self._document.table("sessions")
        terms = SessionTerms(
            minimum=sats(int(table.number("minimum_sats", 1, 1, 100_000_000))),
            maximum=sats(int(table.number("maximum_sats", 1_000_000, 1, 100_000_000))),
            expiry_seconds=int(table.number("invoice_expiry_seconds", 86_400, 60, 30 * 86_400)),
            balance_expiry=self._balance_expiry(table),
        )
        if terms.minimum > terms.maximum:
            self._problems.append("[sessions] minimum_sats is above maximum_sats.")
        table.refuse_unknown()
        return terms

    def _balance_expiry(self, table: "Table") -> BalanceExpiry:
        text = table.text("balance_expiry", BalanceExpiry.NEVER.value)
        if text != BalanceExpiry.NEVER.value and text == table.given.get("balance_expiry"):
            self._problems.append(
                f'{table.where} balance_expiry must be "never": this version lets no balance expire.'
            )
        return BalanceExpiry.NEVER

    def _limits(self) -> Limits:
        table = self._document.table("limits")

        def rate(name: str, default: int, seconds: float) -> Rate:
            return Rate(int(table.number(name, default, 1, 1_000_000_000)), seconds)

        limits = Limits(
            challenges_client=rate("challenges_per_minute_and_client", 60, 60),
            challenges_all=rate("challenges_per_minute", 1200, 60),
            sessions_client=rate("sessions_per_hour_and_client", 10, 3600),
            sessions_all=rate("sessions_per_hour", 1000, 3600),
            traffic=TrafficTerms(
                at_once=int(table.number("calls_at_once", 1024, 1, 1_000_000)),
                at_once_account=int(table.number("calls_at_once_and_account", 64, 1, 1_000_000)),
                at_once_client=int(table.number("calls_at_once_and_client", 128, 1, 1_000_000)),
                account=rate("calls_per_minute_and_account", 6_000, 60),
                client=rate("calls_per_minute_and_client", 12_000, 60),
            ),
            bodies_bytes=int(table.number("bodies_megabytes", 256, 128, 1_000_000)) * 1024 * 1024,
        )
        table.refuse_unknown()
        return limits


def _ark(table: "Table", kind: NodeKind) -> dict[str, Any]:
    """What a node does of Lightning and Ark: all that its kind can, unless the settings say otherwise."""
    if not kind.has_ark_addresses:
        return {"lightning": True, "ark_addresses": False, "ark_instant_max": sats(0)}
    return {
        "lightning": table.flag("lightning", default=True),
        "ark_addresses": table.flag("ark_addresses", default=True),
        "ark_instant_max": sats(int(table.number("ark_instant_sats", 100_000, 0, 100_000_000))),
    }


def _of_other_kinds(word: str) -> Mapping[str, str]:
    """The settings that only other kinds of node have, with what is said where one is named."""
    own = NODE_KINDS[word]
    names = {name for kind in NODE_KINDS.values() for name in kind.settings} - set(own.settings)
    has = f'a node of kind "{word}" has {" and ".join(own.files)}'
    kinds = {
        name: [f'"{other}"' for other, kind in NODE_KINDS.items() if name in kind.settings] for name in names
    }
    return {name: f"is a setting of kind = {_either(others)}; {has}" for name, others in kinds.items()}


def _either(words: Sequence[str]) -> str:
    """Words as alternatives."""
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def _names_a_database(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and len(parts.path) > 1 and parts.port != 0
    except ValueError:
        return False


def _with_warnings(settings: Settings) -> Settings:
    """The settings, with what is allowed and unwise said beside them."""
    warnings = []
    by_lightning = [node for node in settings.nodes if node.lightning]
    if not by_lightning:
        warnings.append(
            "No node makes Lightning invoices: calls are sold to funded tokens only, "
            "and L402 clients cannot pay."
        )
    for service in settings.catalog:
        bundle = bundle_for(
            service.quote(),
            calls=settings.challenge.calls,
            minimum=max((node.minimum for node in by_lightning), default=sats(1)),
        )
        warnings += [
            f"A challenge for {service.path} asks for {whole_sats(bundle.amount)} sats, and node {node.name} "
            f"makes no invoice above {whole_sats(node.maximum)}: it will make none for it."
            for node in by_lightning
            if node.maximum < bundle.amount
        ]
        amount = whole_sats(bundle.amount)
        if amount > CLIENTS_PAY_AT_MOST_SATS:
            warnings.append(
                f"A challenge for {service.path} asks for {amount} sats: L402 clients refuse more than "
                f"{CLIENTS_PAY_AT_MOST_SATS} by default. Lower price_sats or challenge_calls."
            )
        if service.calls_per_day is not None and bundle.calls > service.calls_per_day:
            warnings.append(
                f"A challenge for {service.path} sells {bundle.calls} calls and one day allows "
                f"{service.calls_per_day}: payers wait for the rest."
            )
    for node in settings.nodes:
        warnings += _node_warnings(node, settings)
    host = urlsplit(settings.public_url).hostname or ""
    if settings.public_url.startswith("http://") and not host.startswith(("127.", "localhost")):
        warnings.append("public_url is plain http: credentials are money and must travel over https.")
    if not settings.trusted_proxies and settings.public_url.startswith("https://"):
        warnings.append(
            "trusted_proxies is empty although public_url says that a proxy stands before this: "
            "all payers share the limits of one client. Name the proxy's address."
        )
    if settings.operator_listen.host not in ("127.0.0.1", "::1", "localhost"):
        warnings.append("operator_listen is not on loopback: whoever reaches it reads the metrics.")
    return replace(settings, warnings=tuple(warnings))


def _node_warnings(node: NodeSettings, settings: Settings) -> Iterator[str]:
    """What an operator should know of a node in plain text, and of one whose service keeps fees."""
    kind = NODE_KINDS[node.kind]
    if not kind.has_tls and not _is_private(node.address.rpartition(":")[0].strip("[]")):
        yield (
            f"Node {node.name} is reached in plain text: whoever is between here and {node.address} reads "
            "what opens it and can spend what it has. Use loopback or a private network."
        )
    if not node.lightning or not kind.usual_fee(node.minimum):
        return
    least = max(node.minimum, settings.sessions.minimum)
    asked = {"The smallest session": least}
    for service in settings.catalog:
        bundle = bundle_for(service.quote(), calls=settings.challenge.calls, minimum=node.minimum)
        asked[f"A challenge for {service.path}"] = bundle.amount
        if bundle.calls > settings.challenge.calls:
            yield (
                f"Node {node.name} makes no invoice below {whole_sats(node.minimum)} sats: a challenge for "
                f"{service.path} sells {bundle.calls} calls there instead of {settings.challenge.calls}."
            )
    for what, amount in asked.items():
        fee = kind.usual_fee(amount)
        if is_dear(fee, of=amount):
            much = "all of it or more" if fee >= amount else "more than an eighth"
            yield (
                f"{what} asks for {whole_sats(amount)} sats at node {node.name}, whose service usually keeps "
                f"{whole_sats(fee, asked_for=True)} sats of it, {much}, at your expense. Raise minimum_sats."
            )


def _is_private(host: str) -> bool:
    """Whether an address is this host's or of a private network; a name may be."""
    try:
        return ip_address(host).is_private
    except ValueError:
        return True
