"""The configuration reference: what the settings' code reads, with a sentence for each setting."""

from collections.abc import Iterator, Mapping

from arkgate import settings
from arkgate.settings_table import Setting

TABLES: Mapping[str, str] = {
    "[gateway]": "Where it listens and who it is.",
    "[store]": "The books and the keys. Back the key file up apart from the database.",
    "[[nodes]]": "The payment nodes, one entry each: [several](nodes/several.md) may be named.",
    "[backend]": (
        "The server that answers: any OpenAI-compatible one. Also, down to `hold_margin_seconds`, what "
        "concerns all of them: what is added to every question, and how streams are kept going."
    ),
    "[[backends]]": (
        "Several of them, or the servers of other HTTP APIs. `[backend]` may be left out then, or have "
        "only what concerns all; with a `url` it is one more. "
        "One that has not begun with a call leaves it to the next."
    ),
    "[[services]]": "What is sold: the AI chat, and [any other HTTP API](sell-your-api.md).",
    "[[models]]": (
        "The models that callers may name, each with its price. Without an entry there is one, "
        "`model_label`, at the service's price."
    ),
    "[cache]": "Answers to [repeated questions](api.md#repeated-questions).",
    "[l402]": "What an unpaid call is offered.",
    "[sessions]": "What a funding request may ask for.",
    "[fiat]": "Another currency that prices are shown in. Nothing is ever charged by it.",
    "[limits]": (
        "How many unpaid challenges and sessions are made (a payer with a funded account has limits of its "
        "own), and how many calls. Each process counts for itself."
    ),
}
"""Each table with what it is about, in the order of the page."""

MEANINGS: Mapping[str, Mapping[str, str]] = {
    "[gateway]": {
        "listen": "Where payers' requests arrive. Put a TLS proxy before it.",
        "operator_listen": "Metrics and health for the operator. Keep it on loopback.",
        "public_url": "The address that payers use. Without it, `listen`.",
        "name": "What pages and maps call this gateway.",
        "contact": "How people who find a fault reach you: `/.well-known/security.txt` and maps say it.",
        "trusted_proxies": "Whose `X-Forwarded-For` counts.",
        "log_level": "How much is logged.",
        "grace_seconds": (
            "How long a stop waits for open calls. Without it, ten seconds more than a call may take."
        ),
    },
    "[store]": {
        "url": "`sqlite:///` and a file, or `postgresql://user@host/database` for several gateways.",
        "keys_file": "What signs credentials and tokens. Made at the first start.",
        "log_megabytes": "Disk for SQLite's write-ahead log. A small one is written back more often.",
        "answers_kept_hours": "How long a charged answer can be fetched again.",
        "unpaid_kept_days": "When a funding request that nobody paid is forgotten.",
    },
    "[[nodes]]": {
        "kind": "What it is.",
        "name": "What logs and books call it; its kind, unless given. With several nodes each needs its own.",
        "number": (
            "Stands in every credential that its invoices pay for: it keeps it for ever. With several "
            "nodes each says its own."
        ),
        "address": "`host:port` of its gRPC; of the REST of `barkd`.",
        "tls_cert_file": "The certificate that is trusted, and no other. Read again when it is renewed.",
        "macaroon_file": (
            "What opens it. [The least that is needed](nodes/lnd.md#permissions); "
            "of [waved](nodes/waved.md#macaroon) and [Fulmine](nodes/fulmine.md#macaroon): all."
        ),
        "ca_cert_file": "The node's `ca.pem`, which is trusted. Read again when it is renewed.",
        "client_cert_file": "Its `client.pem`. [What it may do](nodes/cln.md#what-its-key-may-do).",
        "client_key_file": "Its `client-key.pem`: who can read it can spend.",
        "token_file": "barkd's `auth_token`: who can read it can spend. Read again when it is refused.",
        "boltz_url": "The Boltz that Fulmine uses, without `/v2`: it is asked for limits and fees.",
        "tls_server_name": "A name in the certificate, where the address is not one. With kind `cln`: `cln`.",
        "network": "Invoices of any other network are refused. Without it, whatever the first one is of.",
        "minimum_sats": (
            "The smallest invoice to ask it for. "
            "With kind `barkd`: 1000, because of [its fees](nodes/barkd.md#fees); "
            "with `fulmine`: 333, which is [Boltz' least](nodes/fulmine.md#amounts-and-fees)."
        ),
        "maximum_sats": "The largest.",
        "lightning": "Whether it makes invoices. Without it, it serves sessions only, over Ark.",
        "ark_addresses": "Whether sessions and top-ups may be paid to Ark addresses of it.",
        "ark_instant_sats": (
            "Up to how much that comes in at one Ark address is credited at once; more is credited when it "
            "[is final](nodes/barkd.md#ark-addresses)."
        ),
    },
    "[backend]": {
        "model_label": "What callers and answers call the model.",
        "system_prompt": "Goes before every conversation of `/api/ai-chat`.",
        "max_tokens": "The longest answer of `/api/ai-chat` to ask for; 0 leaves it to the backend.",
        "heartbeat_seconds": "How often the reader of a stream hears something before its first token.",
        "drain_seconds": "How long a stream is taken on whose reader has left, to learn what it used.",
        "request_bytes_max": "The largest request to OpenAI's routes; pictures are in it.",
        "server_tools": "How the types of tools begin that the backend may run for callers, such as "
        "`web_search`: they cost you, and no price here counts them.",
        "hold_margin_seconds": "How much longer than a call the price stays held, to settle in.",
    },
    "[[backends]]": {
        "name": "What services and logs call it.",
        "kind": "`openai` speaks OpenAI's API; `http` is any other and gets requests as they are.",
    },
    "[[services]]": {
        "kind": "`chat` is answers of AI models, one entry at most; `http` is any HTTP API.",
        "name": "Its name in credentials and books. A new name is a new service.",
        "path": "Where it is called: one path, or everything under it when it ends in a slash (`http`).",
        "price_sats": "What a call costs. Of kind `http` also parts of a sat.",
        "calls_per_day": "Calls of an account in a UTC day; 0: any number. Of kind `http` 0, unless given.",
        "description": "What the catalog says of it.",
        "backends": "Who does the work, by name. Of kind `chat` all of kind `openai`, unless given.",
        "openai": "Whether OpenAI's routes and Anthropic's are sold, too.",
        "methods": "What may be asked with.",
        "second_sats": "What a second of the backend's work costs beside that.",
        "kilobyte_sats": "What 1,024 bytes of the answer cost beside that.",
        "hold_sats": "What a call may cost at most where it is paid by what it uses; held until it ends.",
        "strip_path": "Whether `path` is left out of what the backend is asked for.",
        "request_headers": "Headers of the caller's that the backend gets: no credentials, none of ours.",
        "response_headers": "Headers of the backend's that the caller gets: none of ours.",
        "request_bytes_max": "The largest request.",
    },
    "[[models]]": {
        "name": "The name that callers use.",
        "price_sats": "What a call costs, whatever it uses. The service's price where no tokens are priced.",
        "input_sats_per_million": "What a million tokens of the question cost.",
        "cached_sats_per_million": "What cached ones of them cost: the same, unless given.",
        "cache_write_sats_per_million": "What those cost that the backend puts into its cache: as any other, "
        "unless given. Anthropic takes a quarter more.",
        "output_sats_per_million": "What a million tokens of the answer cost.",
        "max_tokens": "The longest answer that may be asked for; a request for more is cut to it. 0: any.",
        "default_max_tokens": "How long an answer may be that names no length, where tokens are priced or "
        "several answers or `logprobs` are asked for.",
        "context_tokens": "What the model reads at most. Shown to callers, and held where a request brings "
        "in what it does not hold, such as an earlier response.",
        "picture_tokens": "What a picture may cost in tokens at most: held for each.",
        "length_field": "Where the length goes that we name for a caller who named none; some models take "
        "only the second.",
    },
    "[cache]": {
        "url": "`memory`, or `redis://…` of a Redis or Valkey that several gateways share.",
        "megabytes": "How much is kept in memory.",
        "ttl_seconds": "How long an answer is kept. 0: none is.",
        "per_account": "Whether an account gets its own earlier answers only.",
        "hit_percent": "What a kept answer costs of its price. At 0 it uses up no call of the day either.",
        "entry_bytes_max": "A larger answer is not kept.",
        "temperature_max": "Requests to OpenAI's routes above it, or without one, are asked anew each time.",
        "tools": "Whether requests with tools may be answered from here.",
    },
    "[l402]": {
        "challenge_calls": "Calls that one challenge sells. Clients refuse more than 1,000 sats by default.",
        "invoice_expiry_seconds": "How long a challenge can be paid.",
        "credential_days": "How long a credential is good for calls.",
        "append_version_and_token": (
            "The newest draft's parameters in `WWW-Authenticate`. Some clients cannot read them."
        ),
    },
    "[sessions]": {
        "minimum_sats": "The smallest amount.",
        "maximum_sats": "The largest.",
        "invoice_expiry_seconds": "How long it can be paid.",
        "balance_expiry": (
            "When an unused balance is lost; payers are told before they pay. This version knows `never`."
        ),
    },
    "[fiat]": {
        "currency": "Its three letters.",
        "rate": "What a bitcoin is worth, fixed.",
        "rate_url": "Or where that is asked for: an address that answers with JSON.",
        "rate_field": "Where the number stands in the answer, as in `bitcoin.eur` or `data.0.price`.",
        "refresh_seconds": "How often it is asked for. What is twelve times as old is not shown any more.",
    },
    "[limits]": {
        "challenges_per_minute_and_client": "Challenges of one address.",
        "challenges_per_minute": "Challenges in all.",
        "sessions_per_hour_and_client": "Sessions and top-ups of one address.",
        "sessions_per_hour": "Sessions and top-ups in all.",
        "calls_at_once": "Paid calls under way; more are answered 503, before anything is held.",
        "calls_at_once_and_account": "Those of one account; more are answered 429.",
        "calls_at_once_and_client": "Those of one address.",
        "calls_per_minute_and_account": "How fast one account may call.",
        "calls_per_minute_and_client": "How fast one address may.",
        "bodies_megabytes": "Memory for bodies above 64 KiB; strangers, and each address, have half of it.",
    },
}

_OF_BACKENDS: Mapping[str, str] = {
    "url": "Its base URL, as for OpenAI's SDKs: `http://127.0.0.1:11434/v1`.",
    "model": "The model that it is asked for: the first of `[[models]]`, where there are several.",
    "models": "Its own names of all models that it has, by the names that callers use.",
    "api_key": "Its key. Better in a file of its own.",
    "api_key_file": "A file that holds the key and nothing else.",
    "api_key_header": "Where the key goes: as a bearer token in `Authorization`, bare in any other.",
    "priority": "Those with the lowest number are asked first.",
    "weight": "Its share of the calls among those of one priority.",
    "connect_timeout_seconds": "How long a connection may take.",
    "first_byte_timeout_seconds": "How long it may say nothing at first.",
    "idle_timeout_seconds": "How long it may say nothing in the middle.",
    "total_timeout_seconds": "How long a whole answer may take; after it the payer is refunded.",
    "answer_bytes_max": "A larger answer is refused and refunded; of another API, it leaves as it comes.",
    "stream_bytes_max": "A larger stream is broken off and refunded.",
    "concurrency_max": "More calls at once are answered 503, before anything is held.",
    "queue_max": "How many calls are taken beyond that, to wait for their turn.",
    "queue_timeout_seconds": (
        "How long they wait before they are refunded; `connect_timeout_seconds`, unless given."
    ),
    "ca_file": "The authority that its certificate comes from, where the host does not know it.",
}
"""What each setting decides. A test fails when one that is read is missing here, or one here is not read."""

_HEAD = """\
# Configuration

Written by `arkgate config reference` from the code that reads the settings: `make docs` renews this page.

One TOML file: the one that `--config` names, else `arkgate.toml` where the command runs. Paths in it are
relative to it. `arkgate init` writes one with comments, `arkgate config check` says in sentences what is
wrong or missing, and `arkgate doctor` tries what it names. It is read once, at the start.
"""


def meaning_of(table: str, name: str) -> str:
    """What a setting decides. Raises KeyError."""
    if table in ("[backend]", "[[backends]]") and name in _OF_BACKENDS:
        return _OF_BACKENDS[name]
    return MEANINGS[table][name]


def meanings() -> Mapping[str, frozenset[str]]:
    """The names of all settings that have a meaning here, by table."""
    common = frozenset(_OF_BACKENDS)
    return {
        table: frozenset(names) | (common if table in ("[backend]", "[[backends]]") else frozenset())
        for table, names in MEANINGS.items()
    }


def settings_by_table() -> Mapping[str, Mapping[str, tuple[Setting, tuple[str, ...]]]]:
    """Every setting by table and name, with the kinds of node that have it."""
    found: dict[str, dict[str, tuple[Setting, tuple[str, ...]]]] = {table: {} for table in TABLES}
    for kind, read in settings.known().items():
        for setting in read:
            first, kinds = found.setdefault(setting.table, {}).get(setting.name, (setting, ()))
            found[setting.table][setting.name] = (first, (*kinds, kind))
    return found


def reference() -> str:
    """The page, in Markdown."""
    return "\n".join([_HEAD, *_tables()]) + "\n"


def _tables() -> Iterator[str]:
    everywhere = tuple(settings.known())
    for table, entries in settings_by_table().items():
        yield f"## `{table}`\n\n{TABLES[table]}\n"
        yield "| Setting | What may stand there | Default | Meaning |"
        yield "|---|---|---|---|"
        for name, (setting, kinds) in entries.items():
            only = "" if kinds == everywhere else f" Only for `{'`, `'.join(kinds)}`."
            meaning = meaning_of(table, name)
            yield f"| `{name}` | {setting.values} | {_default(setting.default)} | {meaning}{only} |"
        yield ""


def _default(default: object | None) -> str:
    if default is None:
        return "has to be given"
    if default == "":
        return "none"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"
