"""The composition root: builds the gateway from settings, runs it, and takes it down in the right order."""

import asyncio
import contextlib
import gc
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from arkgate.backend.pool import Pool
from arkgate.backend.rates import RateSource
from arkgate.backend.upstream import Upstream
from arkgate.background import background, work_of
from arkgate.core.catalog import Endpoint, Service, ServiceKind
from arkgate.core.errors import StoreUnavailable
from arkgate.core.keys import Keyring
from arkgate.gateway.addresses import AddressDesk
from arkgate.gateway.admit import Admission
from arkgate.gateway.bodies import Bodies
from arkgate.gateway.challenge import Challenger
from arkgate.gateway.claims import Claims
from arkgate.gateway.desk import InvoiceDesk
from arkgate.gateway.doctor import Doctor, Offer
from arkgate.gateway.fund import Funding
from arkgate.gateway.limits import RateLimit
from arkgate.gateway.meter import Calls
from arkgate.gateway.readiness import ReadinessCheck
from arkgate.gateway.reconcile import Reconcile
from arkgate.gateway.sale import CallTerms, Till
from arkgate.gateway.serve import Gateway
from arkgate.gateway.sessions import Sessions
from arkgate.gateway.shelf import Shelf
from arkgate.gateway.sweep import Sweep
from arkgate.gateway.traffic import Traffic
from arkgate.nodes import NODE_KINDS
from arkgate.ports import ArkWallet, Cache, Clock, Ledger, PaymentNode, Rates, Statements
from arkgate.settings import NodeSettings, Settings
from arkgate.settings_table import Address
from arkgate.store import Store, open_store, shown
from arkgate.store.cache import open_cache
from arkgate.store.checkup import checkup, free_bytes
from arkgate.store.clock import DAY_MS, SystemClock
from arkgate.store.keyfile import keyring_of_books
from arkgate.web.admin import Admin
from arkgate.web.ai_chat import AiChatReader
from arkgate.web.api import Api
from arkgate.web.client import ClientAddress
from arkgate.web.discovery import Discovery
from arkgate.web.guard import Guard
from arkgate.web.llms import Means
from arkgate.web.manifests import Manifests
from arkgate.web.mcp.door import McpDoor
from arkgate.web.metrics import Metrics
from arkgate.web.offers import OffersApi
from arkgate.web.openai import PATHS, OpenAiReader
from arkgate.web.openapi import described
from arkgate.web.openapi_schemas import Json
from arkgate.web.outside import Outside
from arkgate.web.pages import Pages
from arkgate.web.payment import Payments
from arkgate.web.priced import Priced, Reader
from arkgate.web.render import Files, Renderer, Words
from arkgate.web.server import Listener, bind, protocol_for_this_process, serve
from arkgate.web.services import HttpReader
from arkgate.web.watch import SessionWatch

log = structlog.get_logger()
NODE_FACT = "node_number:"
"""The fact that says a node's number is this and the node's name."""


@dataclass(frozen=True, slots=True)
class App:
    """A running gateway: its two ASGI applications, and the open calls that a shutdown waits for."""

    public: Guard
    operator: Guard
    mcp: McpDoor
    calls: Calls
    leaving: Callable[[], None]
    """To be called when the public listener stops: ends what only watches."""


def sqlite_path(settings: Settings) -> Path:
    """Where the settings keep the books."""
    return Path(settings.store_url.removeprefix("sqlite:///"))


@contextlib.asynccontextmanager
async def running(settings: Settings, clock: Clock | None = None) -> AsyncIterator[App]:
    """The gateway with its background work, from the keys to the last open call.

    Raises KeyfileError or StoreUnavailable when it must not start.
    """
    metrics, calls = Metrics(), Calls()
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(
            open_store(settings.store_url, clock, log_bytes=settings.log_bytes)
        )
        # One clock for deadlines and for the sweep: a host clock that is set back must not make a new
        # hold look overdue.
        clock = store.clock
        keyring = await _keyring(settings, store)
        nodes = await stack.enter_async_context(open_nodes(settings, clock))
        await _refuse_renumbered(nodes, store)
        backends = await stack.enter_async_context(open_backends(settings))
        cache = await stack.enter_async_context(open_cache_of(settings))
        rates = None if settings.offers.fiat is None else RateSource(settings.offers.fiat, clock)
        desk, addresses = _desks(settings, nodes, keyring, store)
        parts = _Parts(
            settings,
            keyring,
            clock,
            store.ledger,
            store.statements,
            nodes,
            desk,
            addresses,
            backends,
            cache,
            rates,
            metrics,
            calls,
        )
        kept_ms = settings.unpaid_kept_days * DAY_MS
        sweep = Sweep(store.ledger, store.statements, metrics, unpaid_kept_ms=kept_ms)
        released = await sweep.release_overdue()
        log.info("books opened", database=shown(settings.store_url), released_holds=released)
        funding = parts.funding()
        reconcile = parts.reconcile(funding)
        if await reconcile.pause_if_restored():
            log.warning("the books were restored: nothing is sold before every node was asked")
        life = max(settings.challenge.expiry_seconds, settings.sessions.expiry_seconds)
        await stack.enter_async_context(
            background(
                metrics,
                work_of(
                    funding,
                    reconcile,
                    sweep,
                    (desk, addresses),
                    nodes,
                    backends,
                    rates,
                    store.duties,
                    invoice_life_seconds=life,
                ),
            )
        )
        app = parts.app(funding, reconcile)
        await stack.enter_async_context(app.mcp.open())
        stack.push_async_callback(_drain, calls, settings.call_deadline_seconds)
        yield app


@contextlib.asynccontextmanager
async def reconciling(settings: Settings) -> AsyncIterator[Reconcile]:
    """What asks the nodes about everything, without a gateway around it; holds the right to write.

    Raises what `running` raises.
    """
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(
            open_store(settings.store_url, None, log_bytes=settings.log_bytes)
        )
        keyring = await _keyring(settings, store)
        nodes = await stack.enter_async_context(open_nodes(settings, store.clock))
        funding = Funding(store.ledger, store.statements, nodes, keyring, store.clock, Metrics())
        yield Reconcile(funding, store.ledger, store.statements, nodes, store.clock, Calls())


@contextlib.asynccontextmanager
async def open_nodes(settings: Settings, clock: Clock) -> AsyncIterator[list[PaymentNode]]:
    """Every node of the settings, until the block ends."""
    async with contextlib.AsyncExitStack() as stack:
        nodes = [_node(node, clock) for node in settings.nodes]
        for node in nodes:
            stack.push_async_callback(node.close)
        yield nodes


@contextlib.asynccontextmanager
async def open_backends(settings: Settings) -> AsyncIterator[dict[str, Pool]]:
    """Who does the work, by the names of the services, until the block ends."""
    servers: dict[str, Upstream] = {}
    async with contextlib.AsyncExitStack() as stack:
        for one in [one for many in settings.offers.backends.values() for one in many]:
            if one.name not in servers:
                servers[one.name] = Upstream(one)
                stack.push_async_callback(servers[one.name].close)
        yield {
            service: Pool([servers[one.name] for one in many])
            for service, many in settings.offers.backends.items()
        }


@contextlib.asynccontextmanager
async def open_cache_of(settings: Settings) -> AsyncIterator[Cache]:
    """Where answers are kept, until the block ends."""
    cache = open_cache(settings.offers.cache.url, bytes_max=settings.offers.cache.bytes_max)
    try:
        yield cache
    finally:
        await cache.close()


@contextlib.asynccontextmanager
async def examining(
    settings: Settings, clock: Clock | None = None, *, free: Callable[[Path], int] = free_bytes
) -> AsyncIterator[Doctor]:
    """What tries everything that a paid call needs. Opens the books for reading only, where they are there.

    `clock` is this host's unless a test gives another; `free` says how much disk is free at a folder.
    """
    clock = clock or SystemClock()
    async with contextlib.AsyncExitStack() as stack:
        nodes = await stack.enter_async_context(open_nodes(settings, clock))
        backends = await stack.enter_async_context(open_backends(settings))
        servers = {one.settings.name: one for pool in backends.values() for one in pool.upstreams}
        outside = Outside(settings.public_url, settings.listen.url, settings.catalog)
        yield Doctor(
            Offer(settings.catalog, settings.challenge, settings.sessions),
            nodes,
            servers,
            talkers=frozenset(name for name, server in servers.items() if server.settings.speaks_openai),
            duties={node.name: node.duty for node in settings.nodes},
            warnings=settings.warnings,
            books=lambda: checkup(
                settings.store_url, settings.keys_file, clock, log_bytes=settings.log_bytes, free=free
            ),
            outside=outside.checkup,
        )


async def _keyring(settings: Settings, store: Store) -> Keyring:
    """The keys of these books. Raises KeyfileError for a file that lacks one of them or has another."""
    keyring, unknown = keyring_of_books(settings.keys_file, await store.statements.facts())
    for name, value in unknown.items():
        if await store.ledger.note_once(name, value) != value:
            # Another gateway started at the same moment with a key of its own; this one is refused here.
            keyring_of_books(settings.keys_file, await store.statements.facts())
    return keyring


async def _refuse_renumbered(nodes: list[PaymentNode], store: Store) -> None:
    """A node's number stands in every credential whose invoice it made: it is noted for ever.

    Raises StoreUnavailable for a number that these books know as another node's.
    """
    known = {
        name.removeprefix(NODE_FACT): number
        for name, number in (await store.statements.facts()).items()
        if name.startswith(NODE_FACT)
    }
    names = {number: name for name, number in known.items()}
    for node in nodes:
        holder = names.get(node.number, node.name)
        if holder != node.name:
            raise _renumbered(node, f"{holder} under that number")
        noted = await store.ledger.note_once(NODE_FACT + node.name, node.number)
        if noted != node.number:
            raise _renumbered(node, f"{node.name} under number {noted}")
    for name in known.keys() - {node.name for node in nodes}:
        log.warning("a node of these books is not in the settings: its invoices wait", node=name)


def _renumbered(node: PaymentNode, known: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"[[nodes]] {node.name} has number {node.number}, and these books know {known}. "
        "Credentials name their node by its number: give each node its own again."
    )


async def _drain(calls: Calls, seconds: float) -> None:
    given_up = await calls.drain(seconds)
    if given_up:
        log.error("calls were given up at shutdown; their holds are released", calls=given_up)


def _desks(
    settings: Settings, nodes: list[PaymentNode], keyring: Keyring, store: Store
) -> tuple[InvoiceDesk, AddressDesk]:
    """Where invoices are made and where Ark addresses are given out, by the nodes that may do it."""
    by_lightning = [node for node, its in zip(nodes, settings.nodes, strict=True) if its.lightning]
    wallets = [
        node
        for node, its in zip(nodes, settings.nodes, strict=True)
        if its.ark_addresses and isinstance(node, ArkWallet)
    ]
    return InvoiceDesk(by_lightning, keyring), AddressDesk(wallets, store.statements, store.clock)


def _node(settings: NodeSettings, clock: Clock) -> PaymentNode:
    kind = NODE_KINDS[settings.kind]
    name = {"tls_server_name": settings.tls_server_name} if kind.has_tls else {}
    credentials = kind.credentials(address=settings.address, **name, **settings.files, **settings.urls)
    return kind.build(
        settings.name,
        settings.number,
        credentials,
        clock,
        invoice_minimum=settings.minimum,
        invoice_maximum=settings.maximum,
        network=settings.network,
        **({"ark_instant_max": settings.ark_instant_max} if kind.has_ark_addresses else {}),
    )


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the application is wired from."""

    settings: Settings
    keyring: Keyring
    clock: Clock
    ledger: Ledger
    statements: Statements
    nodes: list[PaymentNode]
    desk: InvoiceDesk
    addresses: AddressDesk
    backends: Mapping[str, Pool]
    cache: Cache
    rates: Rates | None
    metrics: Metrics
    calls: Calls

    def funding(self) -> Funding:
        """What credits payments."""
        return Funding(self.ledger, self.statements, self.nodes, self.keyring, self.clock, self.metrics)

    def reconcile(self, funding: Funding) -> Reconcile:
        """What asks the nodes about everything."""
        return Reconcile(funding, self.ledger, self.statements, self.nodes, self.clock, self.calls)

    def app(self, funding: Funding, reconcile: Reconcile) -> App:
        """The two applications."""
        settings = self.settings
        services = frozenset(service.name for service in settings.catalog)
        admission = Admission(self.keyring, self.statements, funding, services)
        readiness = ReadinessCheck(self.nodes, self.backends, self.statements, self.calls, ledger=self.ledger)
        priced = self._priced(self._gateway(admission))
        sessions = self._sessions()
        means = self._means(sessions)
        watch = SessionWatch(
            sessions,
            self.statements,
            self.clock,
            public_url=settings.public_url,
            balance_expiry=settings.catalog.balance_expiry,
        )
        renderer = _renderer(means, settings.public_url)
        document = described(settings.catalog, means, settings.public_url)
        pages = self._pages(admission, sessions, watch, renderer, document)
        mcp = McpDoor(settings.public_url)
        api = Api(
            priced=priced,
            offers=OffersApi(settings.catalog, priced, sessions, admission, self.statements, self.rates),
            admission=admission,
            sessions=sessions,
            statements=self.statements,
            readiness=readiness,
            catalog=settings.catalog,
            clock=self.clock,
            client_address=ClientAddress(settings.trusted_proxies),
            described=document,
            discovery=[
                *Discovery(settings.catalog, means, settings.public_url).routes(),
                *Manifests(
                    settings.catalog,
                    means,
                    self.clock,
                    settings.public_url,
                    icon=renderer.files.url("icon.svg"),
                ).routes(),
            ],
            watch=watch,
            pages=pages,
            mcp=mcp,
        )
        admin = Admin(
            metrics=self.metrics,
            readiness=readiness,
            statements=self.statements,
            reconcile=reconcile,
            host=settings.operator_listen.host,
        )
        public = Guard(
            api.routes(),
            public_url=settings.public_url,
            answered=self.metrics.request_answered,
            append_token=settings.append_token,
            refusal_page=pages.refusal,
        )
        mcp.lead_to(public)
        return App(
            public=public,
            mcp=mcp,
            operator=Guard(admin.routes(), public_url=settings.public_url, answered=lambda _: None),
            calls=self.calls,
            leaving=watch.end,
        )

    def _pages(
        self,
        admission: Admission,
        sessions: Sessions,
        watch: SessionWatch,
        renderer: Renderer,
        document: Json,
    ) -> Pages:
        settings = self.settings
        return Pages(
            catalog=settings.catalog,
            means=self._means(sessions),
            sessions=sessions,
            claims=Claims(self.keyring, self.statements),
            payments=Payments(watch, self.statements, renderer.say),
            admission=admission,
            statements=self.statements,
            rates=self.rates,
            client_address=ClientAddress(settings.trusted_proxies),
            public_url=settings.public_url,
            renderer=renderer,
            described=document,
        )

    def _means(self, sessions: Sessions) -> Means:
        """How anybody can pay here."""
        nodes = self.settings.nodes
        return Means(
            lightning=any(node.lightning for node in nodes),
            ark=any(node.ark_addresses for node in nodes),
            network=next((node.network for node in nodes if node.network), None),
            minimum=sessions.minimum,
            maximum=sessions.maximum,
            ark_name=next((NODE_KINDS[node.kind].ark_name for node in nodes if node.ark_addresses), ""),
            name=self.settings.site_name,
            contact=self.settings.contact,
        )

    def _gateway(self, admission: Admission) -> Gateway:
        limits, offers = self.settings.limits, self.settings.offers
        limit = RateLimit("challenges", client=limits.challenges_client, everybody=limits.challenges_all)
        terms = CallTerms(
            deadline_seconds=self.settings.call_deadline_seconds,
            answers_kept_seconds=self.settings.answers_kept_seconds,
        )
        return Gateway(
            admission=admission,
            challenger=Challenger(
                self.desk, self.keyring, self.clock, self.settings.challenge, limit, self.metrics
            ),
            statements=self.statements,
            backends=self.backends,
            keyring=self.keyring,
            shelf=Shelf(self.cache, self.keyring, self.calls, offers.cache.terms, offers.fetch),
            till=Till(self.ledger, self.clock, self.metrics, self.calls, terms),
            traffic=Traffic(limits.traffic),
            bodies=Bodies(limits.bodies_bytes),
        )

    def _priced(self, gateway: Gateway) -> list[Priced]:
        """Every priced endpoint, with what reads its requests, in the order in which a path is looked for.

        What is exact comes first, then the longest prefix: a part of a path may have a price of its own.
        """
        address = ClientAddress(self.settings.trusted_proxies)
        priced = [
            Priced(service, endpoint, self._reader(service, endpoint), gateway, address)
            for service, endpoint in self.settings.catalog.offered()
        ]
        return sorted(priced, key=lambda one: (one.endpoint.is_prefix, -len(one.endpoint.path)))

    def _reader(self, service: Service, endpoint: Endpoint) -> Reader:
        offers = self.settings.offers
        if service.kind is ServiceKind.HTTP:
            return HttpReader(service, offers.http[service.name])
        dialect = PATHS.get(endpoint.path)
        if dialect is None:
            return AiChatReader(service, offers.ai_chat)
        return OpenAiReader(
            service,
            dialect,
            count=self.backends[service.name].count_question,
            cache=offers.cache.rules,
            body_bytes_max=offers.openai_bytes_max,
            server_tools=offers.server_tools,
        )

    def _sessions(self) -> Sessions:
        limits = self.settings.limits
        return Sessions(
            desk=self.desk,
            addresses=self.addresses,
            keyring=self.keyring,
            ledger=self.ledger,
            statements=self.statements,
            clock=self.clock,
            terms=self.settings.sessions,
            limit=RateLimit("sessions", client=limits.sessions_client, everybody=limits.sessions_all),
            observer=self.metrics,
            calls=self.calls,
        )


def _renderer(means: Means, public_url: str) -> Renderer:
    """What makes pages, with what all of them show."""
    return Renderer(
        Files(),
        Words(),
        site_name=means.name,
        url=public_url,
        methods=means.methods,
        ark_name=means.ark_name,
        badge=means.network if means.network not in (None, "mainnet") else None,
    )


async def run(settings: Settings, stop: asyncio.Event, *, ready: Callable[[], None]) -> None:
    """Serves until `stop` is set, then drains. `ready` is called when both listeners take requests.

    Raises what `running` raises, and PortTaken before anything else is started.
    """
    with contextlib.ExitStack() as sockets:
        public = sockets.enter_context(contextlib.closing(_bind(settings.listen)))
        operator = sockets.enter_context(contextlib.closing(_bind(settings.operator_listen)))
        async with running(settings) as app:
            _spare_the_collector()
            ready()
            await serve(
                [
                    Listener(
                        app.public,
                        public,
                        protocol_for_this_process(settings.offers.body_bytes_max),
                        app.leaving,
                    ),
                    Listener(app.operator, operator),
                ],
                stop=stop,
                grace_seconds=settings.grace_seconds,
            )


def _bind(address: Address) -> socket.socket:
    return bind(address.host, address.port)


def _spare_the_collector() -> None:
    """What is built now lives as long as the process; looking through it again and again costs 5% a call."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
