"""The configuration reference: what the settings' code reads, with a sentence for each setting."""

from collections.abc import Iterator, Mapping

from arkgate import settings
from arkgate.settings_table import Setting

TABLES: Mapping[str, str] = {
    "[gateway]": "Where it listens and who it is.",
    "[store]": "The books and the keys. Back the key file up apart from the database.",
    "[[nodes]]": "The payment nodes, one entry each: [several](nodes/several.md) may be named.",
    "[backend]": "The server that answers: any OpenAI-compatible one.",
    "[[services]]": "What is sold.",
    "[l402]": "What an unpaid call is offered.",
    "[sessions]": "What a funding request may ask for.",
    "[limits]": (
        "How many unpaid challenges and sessions are made. "
        "A payer with a funded account has limits of its own."
    ),
}
"""Each table with what it is about, in the order of the page."""

MEANINGS: Mapping[str, Mapping[str, str]] = {
    "[gateway]": {
        "listen": "Where payers' requests arrive. Put a TLS proxy before it.",
        "operator_listen": "Metrics and health for the operator. Keep it on loopback.",
        "public_url": "The address that payers use. Without it, `listen`.",
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
        "url": "Its base URL, as for OpenAI's SDKs: `http://127.0.0.1:11434/v1`.",
        "model": "The model that it is asked for.",
        "model_label": "What answers call the model.",
        "api_key": "Its key. Better in a file of its own.",
        "api_key_file": "A file that holds the key and nothing else.",
        "system_prompt": "Goes before every conversation.",
        "connect_timeout_seconds": "How long a connection may take.",
        "first_byte_timeout_seconds": "How long it may say nothing at first.",
        "idle_timeout_seconds": "How long it may say nothing in the middle.",
        "total_timeout_seconds": "How long a whole answer may take; after it the payer is refunded.",
        "hold_margin_seconds": "How much longer than that the price of a call stays held, to settle in.",
        "answer_bytes_max": "A larger answer is refused and refunded.",
        "concurrency_max": "More calls at once are answered 503, before anything is held.",
        "max_tokens": "The longest answer to ask for; 0 leaves it to the backend.",
        "ca_file": "The authority that its certificate comes from, where the host does not know it.",
    },
    "[[services]]": {
        "name": "Its name in credentials and books. A new name is a new service.",
        "path": "Where it is called.",
        "price_sats": "What a call costs.",
        "calls_per_day": "Calls of an account in a UTC day; 0 for any number.",
        "description": "What the catalog says of it.",
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
    "[limits]": {
        "challenges_per_minute_and_client": "Challenges of one address.",
        "challenges_per_minute": "Challenges in all.",
        "sessions_per_hour_and_client": "Sessions and top-ups of one address.",
        "sessions_per_hour": "Sessions and top-ups in all.",
    },
}
"""What each setting decides. A test fails when one that is read is missing here, or one here is not read."""

_HEAD = """\
# Configuration

Written by `arkgate config reference` from the code that reads the settings: `make docs` renews this page.

One TOML file: the one that `--config` names, else `arkgate.toml` where the command runs. Paths in it are
relative to it. `arkgate init` writes one with comments, `arkgate config check` says in sentences what is
wrong or missing, and `arkgate doctor` tries what it names. It is read once, at the start.
"""


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
            meaning = MEANINGS[table][name]
            yield f"| `{name}` | {setting.values} | {_default(setting.default)} | {meaning}{only} |"
        yield ""


def _default(default: object | None) -> str:
    if default is None:
        return "has to be given"
    if default == "":
        return "none"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"
