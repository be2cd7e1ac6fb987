"""Reads what is sold: backends that do the work, models, services, and what is kept of answers."""

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from urllib.parse import urlsplit

from arkgate.backend.rates import RateSettings
from arkgate.backend.upstream import BackendSettings
from arkgate.core.catalog import Catalog, Endpoint, Model, Service, ServiceKind
from arkgate.core.money import Msat, sats
from arkgate.core.pricing import Tariff
from arkgate.gateway.fetch import FetchTerms
from arkgate.gateway.shelf import CacheTerms
from arkgate.ports import Dialect
from arkgate.settings_table import Notes, Table
from arkgate.web.ai_chat import AiChatTerms
from arkgate.web.openai import PATHS, CacheRules
from arkgate.web.services import NEVER, REQUEST_HEADERS, RESPONSE_HEADERS, HttpTerms

BACKEND_KINDS = ("openai", "http")
SERVICE_KINDS = tuple(kind.value for kind in ServiceKind)
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
OUR_PREFIXES = ("/v1/", "/health", "/.well-known/")
OUR_FILES = (
    "/openapi.json",
    "/llms.txt",
    "/llms-full.txt",
    "/AGENTS.md",
    "/l402.json",
    "/skill.md",
    "/robots.txt",
    "/sitemap.xml",
    "/favicon.ico",
)
OUR_PAGES = ("/fund", "/pay", "/dashboard", "/docs", "/apis", "/static", "/mcp")
"""What the gateway answers itself, or will: nobody's service may be there."""
REQUEST_BYTES_MAX = 64 * 1024 * 1024
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}\Z")
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}\Z")
_PATH = re.compile(r"/[A-Za-z0-9._/-]*[A-Za-z0-9._-]/?\Z")
_HEADER = re.compile(r"[a-z0-9-]{1,64}\Z")
_CREDENTIALS = frozenset(
    {"authorization", "cookie", "grpc-metadata-macaroon", "macaroon", "proxy-authorization", "x-api-key"}
)
OURS_TO_BACKENDS = frozenset({"accept-encoding", "host", "user-agent", "x-request-id"})
"""Headers that the gateway writes towards every backend, beside the framing and the key."""
NOT_FOR_KEYS = (NEVER - _CREDENTIALS) | OURS_TO_BACKENDS | {"accept", "content-type"}
"""Where no key of a backend's may go."""
OURS_TO_CALLERS = frozenset(
    {
        "cache-control",
        "date",
        "idempotent-replayed",
        "request-id",
        "x-accel-buffering",
        "x-balance-sats",
        "x-cache",
        "x-content-type-options",
        "x-cost-sats",
        "x-credit-balance",
        "x-request-id",
        "x-should-retry",
    }
)
"""Headers that the gateway writes on answers."""
OUR_FAMILIES_TO_CALLERS = ("access-control-", "x-concurrency-", "x-ratelimit-")
"""How the names of more of them begin."""
_ROUTE_SENTENCES: Mapping[str, str] = MappingProxyType(
    {
        "/v1/chat/completions": "OpenAI's chat completions, streamed or not.",
        "/v1/completions": "OpenAI's completions, streamed or not.",
        "/v1/embeddings": "OpenAI's embeddings.",
        "/v1/responses": "OpenAI's responses, streamed or not.",
        "/v1/messages": "Anthropic's messages, streamed or not.",
    }
)


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """Where answers are kept, and which."""

    url: str
    bytes_max: int
    terms: CacheTerms
    rules: CacheRules


@dataclass(frozen=True, slots=True)
class Offers:
    """Everything that is sold and who does the work."""

    catalog: Catalog
    backends: Mapping[str, tuple[BackendSettings, ...]]
    """By the names of the services."""
    ai_chat: AiChatTerms
    http: Mapping[str, HttpTerms]
    """By the names of the services."""
    cache: CacheSettings
    fetch: FetchTerms
    fiat: RateSettings | None
    """In what prices are shown beside sats."""
    hold_margin_seconds: float
    """How much longer than the backends' total timeout a hold lives."""
    openai_bytes_max: int
    """The largest body of OpenAI's routes."""
    server_tools: tuple[str, ...]
    """How the types of tools begin that backends may run."""

    @property
    def total_timeout_seconds(self) -> float:
        """The longest time that any backend has for one call."""
        return max(one.total_timeout_seconds for many in self.backends.values() for one in many)

    @property
    def body_bytes_max(self) -> int:
        """The largest body of any route."""
        sizes = [terms.request_bytes_max for terms in self.http.values()]
        return max([1024 * 1024, self.openai_bytes_max, *sizes])


class OffersReader:
    """Reads the tables of a document that say what is sold, and notes what is wrong with them."""

    def __init__(self, document: Table, notes: Notes) -> None:
        self._document = document
        self._notes = notes
        self._problems = notes.problems
        self._kinds: dict[str, str] = {}

    def read(self) -> Offers | None:
        """All of it; None where a backend is missing, which has been said."""
        backend = self._document.table("backend")
        label = _matching(backend, "model_label", _MODEL, "arkgate-chat-v1", self._problems)
        ai_chat = AiChatTerms(
            system_prompt=backend.text("system_prompt", "") or None,
            max_tokens=int(backend.number("max_tokens", 0, 0, 10_000_000)) or None,
        )
        fetch = FetchTerms(
            heartbeat_seconds=backend.number("heartbeat_seconds", 10, 0.1, 120),
            drain_seconds=backend.number("drain_seconds", 30, 0.0, 3600),
        )
        openai_bytes_max = int(backend.number("request_bytes_max", 8 * 1024 * 1024, 1024, REQUEST_BYTES_MAX))
        server_tools = backend.texts("server_tools", ())
        margin = backend.number("hold_margin_seconds", 60, 5, 3600)
        tables = self._document.tables("models")
        names = [table.text("name", label if len(tables) < 2 else "") for table in tables] or [label]
        backends = self._backends(backend, names[0])
        services = self._services(label, tables)
        cache, fiat = self._cache(), self._fiat()
        done_by = {service.name: self._done_by(service, wanted, backends) for service, wanted, _ in services}
        if len(backends) == len(self._kinds):  # or what is wrong with them has been said
            for service, _, terms in services:
                self._refuse_unserved(service, done_by[service.name])
                self._refuse_key_of_callers(service, terms, done_by[service.name])
        if not backends or not all(done_by.values()):
            return None
        longest = max(one.total_timeout_seconds for many in done_by.values() for one in many)
        fetch = replace(fetch, total_seconds=longest)
        http = {service.name: terms for service, _, terms in services if terms is not None}
        catalog = self._catalog([service for service, _, _ in services])
        return Offers(
            catalog, done_by, ai_chat, http, cache, fetch, fiat, margin, openai_bytes_max, server_tools
        )

    # Backends.

    def _backends(self, single: Table, first_model: str) -> dict[str, BackendSettings]:
        """All of them by name. Beside others `[backend]` is one of them only where it has a url."""
        tables = self._document.tables("backends")
        is_one = not tables or "url" in single.given
        read = [self._backend(single, first_model, name="backend")] if is_one else []
        for table in tables:
            read.append(self._backend(table, first_model))
            table.refuse_unknown()
        single.refuse_unknown({} if is_one else self._of_one_backend())
        found: dict[str, BackendSettings] = {}
        for backend in read:
            if backend is None:
                continue
            if backend.name in found:
                self._problems.append(f"[[backends]] name {backend.name} is given twice.")
            found[backend.name] = backend
        return found

    def _of_one_backend(self) -> dict[str, str]:
        """What is said in `[backend]` of a setting that each of `[[backends]]` has for itself."""
        say = "concerns one server: put it into its [[backends]] entry, or give [backend] a url as well"
        return {name: say for table, name in self._notes.settings if table == "[[backends]]"}

    def _backend(self, table: Table, first_model: str, *, name: str = "") -> BackendSettings | None:
        if not name:
            name = _matching(table, "name", _NAME, "", self._problems)
        kind = table.one_of("kind", BACKEND_KINDS, "openai") if table.where != "[backend]" else "openai"
        key = table.secret("api_key")
        is_chat = kind == "openai"
        url = table.text("url").rstrip("/")
        if is_chat:
            self._refuse_route(table, url)
        single = table.where == "[backend]"
        models = table.texts_by_name("models")
        own = table.text("model") if single and not models else table.text("model", "")
        if own and not models:
            models = {first_model: own}
        concurrency = int(table.number("concurrency_max", 64, 1, 10_000))
        connect = table.number("connect_timeout_seconds", 5, 0.1, 60)
        self._kinds[name] = kind
        try:
            return BackendSettings(
                url=url,
                model=own,
                models=models,
                name=name,
                api_key=key,
                api_key_header=self._key_header(table),
                priority=int(table.number("priority", 0, 0, 1000)),
                weight=int(table.number("weight", 1, 1, 1000)),
                connect_timeout_seconds=connect,
                first_byte_timeout_seconds=table.number("first_byte_timeout_seconds", 60, 0.1, 3600),
                idle_timeout_seconds=table.number("idle_timeout_seconds", 30, 0.1, 3600),
                total_timeout_seconds=table.number("total_timeout_seconds", 120, 1, 3600),
                answer_bytes_max=int(table.number("answer_bytes_max", 1024 * 1024, 1024, 64 * 1024 * 1024)),
                stream_bytes_max=int(table.number("stream_bytes_max", 8 * 1024 * 1024, 1024, 16 * 1024**3)),
                concurrency_max=concurrency,
                queue_max=int(table.number("queue_max", 0, 0, 100_000)),
                queue_timeout_seconds=table.number("queue_timeout_seconds", connect, 0.1, 600),
                ca_file=str(table.file("ca_file", required=False) or "") or None,
                speaks_openai=is_chat,
            )
        except ValueError as error:
            if table.given.get("url"):  # what is missing or empty has been said
                self._problems.append(f"{table.where} {error}.")
            return None

    def _refuse_route(self, table: Table, url: str) -> None:
        """Notes a URL of one route where the base of all is wanted."""
        route = next(
            (dialect.value for dialect in Dialect if dialect.value and url.endswith(dialect.value)), ""
        )
        if route:
            self._problems.append(
                f"{table.where} url ends in {route}, which the gateway adds itself: leave that out, so that "
                "it usually ends in /v1."
            )

    def _key_header(self, table: Table) -> str:
        name = table.text("api_key_header", "Authorization")
        if "api_key_header" in table.given and not table.given.keys() & {"api_key", "api_key_file"}:
            self._problems.append(
                f"{table.where} api_key_header is given without a key: add api_key_file, or leave it out."
            )
        if name.lower() in NOT_FOR_KEYS:
            self._problems.append(
                f"{table.where} api_key_header is {name}, which is not for keys: name the header in which "
                "the backend looks for one, like X-API-Key."
            )
        return name

    def _done_by(
        self, service: Service, wanted: Sequence[str], backends: Mapping[str, BackendSettings]
    ) -> tuple[BackendSettings, ...]:
        """Who does a service's work: those that it names, or all of its kind."""
        kind = "openai" if service.kind is ServiceKind.CHAT else "http"
        if not wanted and service.kind is ServiceKind.CHAT:
            wanted = [name for name in backends if self._kinds[name] == kind]
        for name in wanted:
            if name not in backends and name not in self._kinds:
                self._problems.append(
                    f"[[services]] {service.name} names backend {name}, which is not there."
                )
            elif self._kinds.get(name) != kind:
                self._problems.append(
                    f'[[services]] {service.name} needs a backend of kind = "{kind}", and {name} is none.'
                )
        found = tuple(backends[name] for name in wanted if name in backends)
        if not wanted and (backends or service.kind is ServiceKind.HTTP):  # or that has been said
            self._problems.append(
                f'[[services]] {service.name} has no backend: name one of kind = "{kind}" in backends.'
            )
        return found

    def _refuse_unserved(self, service: Service, backends: Sequence[BackendSettings]) -> None:
        """Notes each model that could be paid for and never be answered."""
        if not backends or not all(backend.models for backend in backends):
            return  # one without names of its own is asked for any
        known = {name: own for backend in backends for name, own in backend.models.items()}
        for model in service.models:
            if model.name and model.name not in known:
                names = {**backends[0].models, model.name: "its own name for it"}
                table = ", ".join(f'"{name}" = "{own}"' for name, own in names.items())
                self._problems.append(
                    f"[[models]] {model.name}: no backend has it. In place of model write all that one has "
                    f"into its entry: models = {{{table}}}."
                )

    def _refuse_key_of_callers(
        self, service: Service, terms: HttpTerms | None, backends: Sequence[BackendSettings]
    ) -> None:
        """Notes each header in which a caller's text would stand beside the operator's key, or before it."""
        for backend in backends:
            name = backend.api_key_header.lower()
            if terms is not None and backend.api_key and name in terms.request_headers:
                self._problems.append(
                    f"[[services]] {service.name} request_headers holds {name}, in which backend "
                    f"{backend.name} gets its key: leave it out there."
                )

    # Services.

    def _services(
        self, label: str, models: Sequence[Table]
    ) -> list[tuple[Service, tuple[str, ...], HttpTerms | None]]:
        tables = self._document.tables("services") or [self._document.empty("[[services]]")]
        read = [self._service(table, label, models) for table in tables]
        if sum(service.kind is ServiceKind.CHAT for service, _, _ in read) > 1:
            self._problems.append('[[services]] may have one entry of kind = "chat".')
        return read

    def _service(
        self, table: Table, label: str, models: Sequence[Table]
    ) -> tuple[Service, tuple[str, ...], HttpTerms | None]:
        kind = ServiceKind(table.one_of("kind", SERVICE_KINDS, "chat"))
        name = table.matching("name", _NAME, "ai_chat" if kind is ServiceKind.CHAT else "")
        calls_per_day = int(
            table.number("calls_per_day", 5 if kind is ServiceKind.CHAT else 0, 0, 1_000_000_000)
        )
        wanted = table.texts("backends", ())
        if kind is ServiceKind.CHAT:
            service = self._chat(table, name, calls_per_day or None, label, models)
            terms = None
        else:
            service, terms = self._http(table, name, calls_per_day or None)
        table.refuse_unknown()
        return service, wanted, terms

    def _chat(
        self, table: Table, name: str, calls_per_day: int | None, label: str, models: Sequence[Table]
    ) -> Service:
        price = sats(int(table.number("price_sats", 50, 1, 1_000_000)))
        description = table.text("description", "AI chat: a prompt or a conversation in, one answer out.")
        path = self._path(table, "/api/ai-chat")
        if path.endswith("/"):
            self._problems.append(f"{table.where} path must not end in a slash.")
        endpoints = [Endpoint(path, ("POST",), description)]
        if table.flag("openai", default=True):
            endpoints += [Endpoint(path, ("POST",), _ROUTE_SENTENCES[path]) for path in PATHS]
        tariff = Tariff(call=price)
        read = tuple(self._model(model, tariff, label, alone=len(models) == 1) for model in models)
        self._refuse_shared("[[models]] name", [model.name for model in read])
        return Service(
            name=name,
            endpoints=tuple(endpoints),
            tariff=tariff,
            price=price,
            calls_per_day=calls_per_day,
            description=description,
            models=read or (Model(label, tariff),),
        )

    def _model(self, table: Table, usual: Tariff, label: str, *, alone: bool) -> Model:
        name = _matching(table, "name", _MODEL, label if alone else "", self._problems)
        tariff = self._tariff_of_model(table, name, usual)
        model = Model(
            name,
            tariff,
            max_tokens=int(table.number("max_tokens", 0, 0, 10_000_000)) or None,
            default_max_tokens=int(table.number("default_max_tokens", 4096, 1, 10_000_000)),
            context_tokens=int(table.number("context_tokens", 0, 0, 100_000_000)) or None,
            picture_tokens=int(table.number("picture_tokens", 1600, 1, 1_000_000)),
            length_field=table.one_of("length_field", ("max_tokens", "max_completion_tokens"), "max_tokens"),
        )
        if "default_max_tokens" in table.given and model.default_max_tokens > (model.max_tokens or math.inf):
            self._problems.append(
                f"{table.where} {name}: default_max_tokens is above max_tokens: lower it, or leave it out."
            )
        table.refuse_unknown()
        return model

    def _tariff_of_model(self, table: Table, name: str, usual: Tariff) -> Tariff:
        input_tokens, cached, written, output_tokens = (
            self._price(table, f"{what}_sats_per_million", 1e9)
            for what in ("input", "cached", "cache_write", "output")
        )
        for what, amount in (("cached", cached), ("cache_write", written)):
            if amount and not input_tokens:
                self._problems.append(
                    f"{table.where} {name}: {what}_sats_per_million is for a part of the question's tokens: "
                    "give input_sats_per_million, too."
                )
        if cached > input_tokens > 0:
            self._problems.append(
                f"{table.where} {name}: cached_sats_per_million is at most input_sats_per_million."
            )
        by_tokens = bool(input_tokens or output_tokens)
        call = self._price(table, "price_sats", 1e6, default=0 if by_tokens else usual.call / 1000)
        if not (by_tokens or call):
            self._problems.append(f"{table.where} {name} has no price.")
        return Tariff(
            call=call,
            input_tokens=input_tokens,
            cached_tokens=cached if "cached_sats_per_million" in table.given else input_tokens,
            written_tokens=written if "cache_write_sats_per_million" in table.given else None,
            output_tokens=output_tokens,
        )

    def _price(self, table: Table, name: str, maximum: float, *, default: float = 0) -> Msat:
        """A price in msat; a part of one is dropped, and what is only such a part is noted."""
        amount_sats = table.number(name, default, 0.0, maximum)
        amount = Msat(int(round(amount_sats * 1_000_000) // 1000))
        if amount_sats and not amount:
            self._problems.append(
                f"{table.where} {name} is below a msat, of which a sat has a thousand: the least is 0.001."
            )
            return Msat(1)
        return amount

    def _http(self, table: Table, name: str, calls_per_day: int | None) -> tuple[Service, HttpTerms]:
        call = self._price(table, "price_sats", 1e6)
        second = self._price(table, "second_sats", 1e6)
        kilobyte = self._price(table, "kilobyte_sats", 1e6)
        tariff = Tariff(call=call, second=second, kilobyte=kilobyte)
        hold = self._price(table, "hold_sats", 1e9)
        if not (call or second or kilobyte):
            self._problems.append(f"{table.where} {name} has no price: give price_sats.")
        elif tariff.is_fixed and hold:
            self._problems.append(
                f"{table.where} {name} costs the same for every call: leave hold_sats out, or give "
                "second_sats or kilobyte_sats."
            )
        elif hold <= call and not tariff.is_fixed:
            self._problems.append(
                f"{table.where} {name} is paid by what it uses: hold_sats says what a call may cost at most."
            )
        if tariff.is_fixed:
            hold = call
        description = table.text("description", "")
        methods = table.texts("methods", ("GET", "POST"))
        if not methods or not set(methods) <= set(METHODS):
            self._problems.append(f"{table.where} methods must hold some of {', '.join(METHODS)}.")
        path = self._path(table, "")
        terms = HttpTerms(
            strip=table.flag("strip_path", default=False),
            request_headers=self._headers(table, "request_headers", REQUEST_HEADERS, OURS_TO_BACKENDS),
            response_headers=self._headers(
                table, "response_headers", RESPONSE_HEADERS, OURS_TO_CALLERS, OUR_FAMILIES_TO_CALLERS
            ),
            request_bytes_max=int(table.number("request_bytes_max", 1024 * 1024, 0, REQUEST_BYTES_MAX)),
        )
        service = Service(
            name=name,
            endpoints=(Endpoint(path or "/", methods or ("GET",), description),),
            tariff=tariff,
            price=hold or Msat(1000),
            calls_per_day=calls_per_day,
            description=description,
            kind=ServiceKind.HTTP,
        )
        return service, terms

    def _path(self, table: Table, default: str) -> str:
        path = table.text("path", default) if default else table.text("path")
        taken = path.startswith(OUR_PREFIXES) or path.rstrip("/") in (*OUR_FILES, *OUR_PAGES)
        if path and (not _PATH.match(path) or "//" in path or taken):
            self._problems.append(
                f"{table.where} path must be like /api/ai-chat, or /api/ for all under it, "
                "and none of the gateway's own: under /v1/, /health or /.well-known/, or a page's."
            )
        elif not {".", ".."}.isdisjoint(path.split("/")):
            self._problems.append(
                f"{table.where} path has a . or .. between slashes: write what it comes to."
            )
        return path

    def _headers(
        self,
        table: Table,
        name: str,
        default: tuple[str, ...],
        ours: Collection[str],
        families: tuple[str, ...] = (),
    ) -> tuple[str, ...]:
        """Names in lower case. Notes those that cannot pass: what the gateway writes would be there twice."""
        headers = tuple(text.lower() for text in table.texts(name, default))
        for header in headers:
            if header in ours or header.startswith(families):
                self._problems.append(
                    f"{table.where} {name} holds {header}, which the gateway writes itself: leave it out."
                )
            elif not _HEADER.match(header) or header in NEVER:
                self._problems.append(f"{table.where} {name} holds {header}, which cannot pass.")
        return headers

    def _refuse_shared(self, what: str, values: Sequence[str]) -> None:
        for value, times in Counter(values).items():
            if value and times > 1:
                self._problems.append(f"{what} {value} is given {times} times: each entry needs its own.")

    def _catalog(self, services: Sequence[Service]) -> Catalog:
        self._refuse_shared("[[services]] name", [service.name for service in services])
        self._refuse_shared("[[services]] path", [service.path for service in services])
        try:
            return Catalog(tuple(services))
        except ValueError:  # that has been said, also of two that chat
            return Catalog(tuple(services[:1]))

    # What is shown and kept.

    def _fiat(self) -> RateSettings | None:
        table = self._document.table("fiat")
        currency = table.text("currency", "").upper()
        fixed = table.number("rate", 0, 0.0, 1e15)
        url = table.optional_service("rate_url")
        field = tuple(part for part in table.text("rate_field", "").split(".") if part)
        refresh = table.number("refresh_seconds", 300, 10, 86_400)
        table.refuse_unknown()
        if not table.given:
            return None
        if not re.fullmatch(r"[A-Z]{3}", currency) or bool(fixed) == bool(url) or (url and not field):
            self._problems.append(
                '[fiat] needs a currency like "EUR" and a bitcoin in it: rate, or rate_url and rate_field.'
            )
            return None
        return RateSettings(currency, fixed or None, url or None, field, refresh)

    def _cache(self) -> CacheSettings:
        table = self._document.table("cache")
        settings = CacheSettings(
            url=table.text("url", "memory"),
            bytes_max=int(table.number("megabytes", 64, 1, 65_536)) * 1024 * 1024,
            terms=CacheTerms(
                ttl_seconds=table.number("ttl_seconds", 600, 0, 30 * 86_400),
                per_account=table.flag("per_account", default=False),
                hit_percent=int(table.number("hit_percent", 100, 0, 100)),
                entry_bytes_max=int(table.number("entry_bytes_max", 256 * 1024, 1024, 16 * 1024 * 1024)),
            ),
            rules=CacheRules(
                temperature_max=table.number("temperature_max", 0, 0, 2),
                tools=table.flag("tools", default=False),
            ),
        )
        if settings.url != "memory" and not _is_cache(settings.url):
            self._problems.append('[cache] url must be "memory" or like "redis://127.0.0.1:6379/0".')
        table.refuse_unknown({"enabled": "is not a setting; ttl_seconds = 0 turns the cache off"})
        return settings


def _is_cache(url: str) -> bool:
    """Whether a URL names a server that keeps answers, and says where it is."""
    try:
        parts = urlsplit(url)
        if parts.scheme == "unix":
            return bool(parts.path)
        return parts.scheme in ("redis", "rediss", "valkey") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _matching(table: Table, name: str, pattern: re.Pattern[str], default: str, problems: list[str]) -> str:
    value = table.text(name, default) if default else table.text(name)
    if value and not pattern.match(value):
        problems.append(f"{table.where} {name} {value!r} holds a character that cannot be in it.")
    return value
