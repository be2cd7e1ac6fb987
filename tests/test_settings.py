"""The settings: every problem is a sentence that names the setting and what it must be."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arkgate import settings
from arkgate.cli.template import TEMPLATE
from arkgate.core.money import sats

Change = Callable[[str], str]
GOOD = """\
[gateway]
listen = "127.0.0.1:8402"
[store]
url = "sqlite:///arkgate.db"
[[nodes]]
address = "127.0.0.1:10009"
tls_cert_file = "tls.cert"
macaroon_file = "invoice.macaroon"
[backend]
url = "http://127.0.0.1:11434/v1"
model = "llama3.2"
[[services]]
path = "/api/ai-chat"
[l402]
[sessions]
[limits]
"""


def written(directory: Path, text: str = GOOD) -> Path:
    """A configuration with the files that it names."""
    for name in ("tls.cert", "invoice.macaroon", "backend.key"):
        (directory / name).write_text("content\n")
    (directory / "empty").touch()
    path = directory / "arkgate.toml"
    path.write_text(text)
    return path


def problems(directory: Path, text: str) -> list[str]:
    with pytest.raises(settings.SettingsError) as raised:
        settings.load(written(directory, text))
    return raised.value.problems


def added(table: str, line: str) -> Change:
    """Puts a line into a table, in place of the same name's."""
    name = line.partition(" ")[0]

    def change(text: str) -> str:
        head, rest = text.split(table + "\n", 1)
        own, separator, others = rest.partition("\n[") if not rest.startswith("[") else ("", "[", rest[1:])
        kept = [entry for entry in own.splitlines() if entry.partition(" ")[0] != name]
        tail = f"\n[{others}" if separator else ""
        return f"{head}{table}\n" + "\n".join([*kept, line]) + tail

    return change


def without(line_start: str) -> Change:
    return lambda text: "".join(
        line for line in text.splitlines(keepends=True) if not line.startswith(line_start)
    )


def appended(text: str) -> Change:
    return lambda before: before + text


def chained(*changes: Change) -> Change:
    def change(text: str) -> str:
        for one in changes:
            text = one(text)
        return text

    return change


def another_node(lines: str) -> Change:
    return appended(
        f'[[nodes]]\n{lines}\naddress = "h:1"\ntls_cert_file = "tls.cert"\n'
        'macaroon_file = "invoice.macaroon"\n'
    )


def test_a_short_configuration_has_the_documented_defaults(tmp_path: Path) -> None:
    loaded = settings.load(written(tmp_path))

    assert loaded.public_url == "http://127.0.0.1:8402"
    assert loaded.keys_file == tmp_path / "arkgate-keys.json"
    assert loaded.store_url == f"sqlite:///{tmp_path}/arkgate.db"
    (service,) = loaded.catalog
    assert (service.name, service.price, service.calls_per_day) == ("ai_chat", 50_000, 5)
    assert loaded.offers.total_timeout_seconds == 120
    assert loaded.call_deadline_seconds == 180
    assert loaded.grace_seconds == 130
    assert loaded.answers_kept_seconds == 86_400
    assert loaded.unpaid_kept_days == 90
    assert loaded.warnings == ()


def test_several_nodes_keep_their_order_names_and_numbers(tmp_path: Path) -> None:
    change = chained(
        added("[[nodes]]", 'name = "first"\nnumber = 7'), another_node('name = "second"\nnumber = 2')
    )

    loaded = settings.load(written(tmp_path, change(GOOD)))

    assert [(node.name, node.number) for node in loaded.nodes] == [("first", 7), ("second", 2)]


CORE_LIGHTNING = """[[nodes]]
kind = "cln"
ca_cert_file = "ca.pem"
client_cert_file = "client.pem"
client_key_file = "client-key.pem"
"""


def as_core_lightning(directory: Path) -> str:
    """The good configuration with a Core Lightning in place of the LND."""
    for name in ("ca.pem", "client.pem", "client-key.pem"):
        (directory / name).write_text("content\n")
    text = without("tls_cert_file")(without("macaroon_file")(GOOD))
    return text.replace("[[nodes]]\n", CORE_LIGHTNING)


def test_a_core_lightning_has_files_of_its_own_and_its_own_name(tmp_path: Path) -> None:
    (node,) = settings.load(written(tmp_path, as_core_lightning(tmp_path))).nodes

    assert (node.kind, node.name, node.tls_server_name) == ("cln", "cln", "cln")
    assert dict(node.files) == {
        "ca_cert_file": tmp_path / "ca.pem",
        "client_cert_file": tmp_path / "client.pem",
        "client_key_file": tmp_path / "client-key.pem",
    }


def test_a_core_lightning_with_a_macaroon_is_refused_in_one_sentence(tmp_path: Path) -> None:
    text = added("[[nodes]]", 'macaroon_file = "invoice.macaroon"')(as_core_lightning(tmp_path))

    assert problems(tmp_path, text) == [
        (
            '[[nodes]] macaroon_file is a setting of kind = "lnd", "fulmine" or "waved"; a node of '
            'kind "cln" has ca_cert_file and client_cert_file and client_key_file.'
        )
    ]


BARKD = """[[nodes]]
kind = "barkd"
token_file = "auth_token"
"""


def as_barkd(directory: Path, *lines: str) -> str:
    """The good configuration with a barkd in place of the LND."""
    (directory / "auth_token").write_text("content\n")
    text = without("tls_cert_file")(without("macaroon_file")(GOOD))
    return text.replace("[[nodes]]\n", BARKD + "".join(f"{line}\n" for line in lines))


def test_a_barkd_has_a_token_and_a_minimum_that_is_worth_its_fees(tmp_path: Path) -> None:
    (node,) = settings.load(written(tmp_path, as_barkd(tmp_path))).nodes

    assert (node.kind, node.name, node.minimum, node.tls_server_name) == ("barkd", "barkd", sats(1_000), None)
    assert dict(node.files) == {"token_file": tmp_path / "auth_token"}


FULMINE = """[[nodes]]
kind = "fulmine"
macaroon_file = "fulmine.macaroon"
"""


def as_fulmine(directory: Path, *lines: str) -> str:
    """The good configuration with a Fulmine in place of the LND."""
    (directory / "fulmine.macaroon").write_text("content\n")
    text = without("tls_cert_file")(without("macaroon_file")(GOOD))
    return text.replace("[[nodes]]\n", FULMINE + "".join(f"{line}\n" for line in lines))


def test_a_fulmine_has_a_boltz_and_its_least(tmp_path: Path) -> None:
    text = as_fulmine(tmp_path, 'boltz_url = "https://boltz.example/"')
    (node,) = settings.load(written(tmp_path, text)).nodes

    assert (node.kind, node.name, node.minimum, node.tls_server_name) == (
        "fulmine",
        "fulmine",
        sats(333),
        None,
    )
    assert dict(node.urls) == {"boltz_url": "https://boltz.example"}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('boltz_url = "boltz.example"', "boltz_url must be a URL, like https://api.example.com"),
        ("", "boltz_url is missing"),
    ],
)
def test_a_fulmine_without_a_boltz_is_refused(tmp_path: Path, line: str, problem: str) -> None:
    (found,) = problems(tmp_path, as_fulmine(tmp_path, line))

    assert problem in found


def test_a_waved_has_what_an_lnd_has(tmp_path: Path) -> None:
    (node,) = settings.load(written(tmp_path, added("[[nodes]]", 'kind = "waved"')(GOOD))).nodes

    assert (node.kind, node.name, node.minimum) == ("waved", "waved", sats(1))
    assert set(node.files) == {"tls_cert_file", "macaroon_file"}


def test_a_barkd_has_no_tls(tmp_path: Path) -> None:
    assert problems(tmp_path, as_barkd(tmp_path, 'tls_server_name = "ark"')) == [
        (
            '[[nodes]] tls_server_name is a setting of kind = "lnd", "cln" or "waved"; a node of kind '
            '"barkd" has token_file.'
        )
    ]


def test_a_barkd_serves_lightning_and_ark_unless_the_settings_say_otherwise(tmp_path: Path) -> None:
    def duty(*lines: str) -> tuple[bool, bool, int]:
        (node,) = settings.load(written(tmp_path, as_barkd(tmp_path, *lines))).nodes
        return node.lightning, node.ark_addresses, node.ark_instant_max

    assert duty() == (True, True, sats(100_000))
    assert duty("lightning = false", "ark_instant_sats = 0") == (False, True, 0)
    assert duty("ark_addresses = false") == (True, False, sats(100_000))
    assert problems(tmp_path, as_barkd(tmp_path, "lightning = false", "ark_addresses = false")) == [
        "[[nodes]] lightning and ark_addresses are both false: leave it out."
    ]


def test_what_each_node_serves_is_said(tmp_path: Path) -> None:
    found = {
        lines: settings.load(written(tmp_path, as_barkd(tmp_path, *lines)))
        for lines in ((), ("lightning = false",), ("ark_addresses = false",))
    }

    assert [loaded.nodes[0].duty.sentence for loaded in found.values()] == [
        "serves challenges and sessions over Lightning, and sessions over Ark",
        "serves sessions only, over Ark; it makes no invoices for challenges",
        "serves challenges and sessions, over Lightning",
    ]
    said = ["No node makes Lightning invoices" in " ".join(loaded.warnings) for loaded in found.values()]
    assert said == [False, True, False]
    (lnd,) = settings.load(written(tmp_path, GOOD)).nodes
    assert (lnd.lightning, lnd.ark_addresses) == (True, False)


def test_ark_settings_belong_to_nodes_that_have_addresses(tmp_path: Path) -> None:
    text = GOOD.replace("[[nodes]]\n", "[[nodes]]\nlightning = false\n")

    (problem,) = problems(tmp_path, text)

    assert 'lightning is a setting of kind = "barkd"' in problem


def barkd_warnings(directory: Path, text: str) -> list[str]:
    """What is said of the node, and not of other things."""
    warnings = settings.load(written(directory, text)).warnings
    return [warning for warning in warnings if "barkd" in warning]


def test_a_bundle_that_a_barkd_makes_larger_is_said(tmp_path: Path) -> None:
    assert barkd_warnings(tmp_path, as_barkd(tmp_path)) == [
        (
            "Node barkd makes no invoice below 1000 sats: a challenge for /api/ai-chat sells 20 calls there "
            "instead of 1."
        )
    ]
    enough = added("[l402]", "challenge_calls = 20")(as_barkd(tmp_path))
    assert barkd_warnings(tmp_path, enough) == []


@pytest.mark.parametrize(
    ("minimum", "much"), [(50, "101 sats of it, all of it or more"), (700, "102 sats of it, more than an")]
)
def test_fees_that_eat_what_is_asked_for_are_said(tmp_path: Path, minimum: int, much: str) -> None:
    found = barkd_warnings(tmp_path, as_barkd(tmp_path, f"minimum_sats = {minimum}"))

    for what in ("The smallest session", "A challenge for /api/ai-chat"):
        (warning,) = [warning for warning in found if warning.startswith(what)]
        assert f"asks for {minimum} sats at node barkd, whose service usually keeps {much}" in warning


@pytest.mark.parametrize(
    ("address", "is_said"),
    [("127.0.0.1:3000", False), ("10.1.2.3:3000", False), ("barkd:3000", False), ("8.8.8.8:3000", True)],
)
def test_a_token_that_would_cross_the_internet_is_said(tmp_path: Path, address: str, is_said: bool) -> None:
    text = re.sub(r'address = "[^"]*"', f'address = "{address}"', as_barkd(tmp_path), count=1)
    found = [warning for warning in barkd_warnings(tmp_path, text) if "plain text" in warning]

    assert bool(found) is is_said


REFUSED: dict[str, tuple[Change, str]] = {
    "a misspelt setting": (
        added("[gateway]", 'listn = "127.0.0.1:1"'),
        "[gateway] listn is not a setting; did you mean listen?",
    ),
    "an unknown setting": (added("[store]", "zzz = 1"), "[store] zzz is not a setting."),
    "an unknown table": (appended("[sesions]\n"), "sesions is not a setting; did you mean sessions?"),
    "a table where a list is": (
        lambda text: text.replace("[[nodes]]", "[nodes]"),
        "nodes must be a list of tables: write [[nodes]].",
    ),
    "a list where a table is": (
        lambda text: text.replace("[backend]", "[[backend]]"),
        "backend must be a table: write [backend].",
    ),
    "a number where a text is": (
        added("[backend]", "model = 3"),
        "[backend] model must be a text in quotes, and not empty.",
    ),
    "an empty model": (
        added("[backend]", 'model = ""'),
        "[backend] model must be a text in quotes, and not empty.",
    ),
    "a text where a number is": (
        added("[[services]]", 'price_sats = "50"'),
        "[[services]] price_sats must be a number.",
    ),
    "a price with a fraction": (
        added("[[services]]", "price_sats = 0.5"),
        "[[services]] price_sats must be a number between 1 and 1000000.",
    ),
    "a price that is not a number": (
        added("[[services]]", "price_sats = nan"),
        "[[services]] price_sats must be a number between 1 and 1000000.",
    ),
    "an endless timeout": (
        added("[backend]", "total_timeout_seconds = inf"),
        "[backend] total_timeout_seconds must be a number between 1 and 3600.",
    ),
    "a price of nothing": (
        added("[[services]]", "price_sats = 0"),
        "[[services]] price_sats must be a number between 1 and 1000000.",
    ),
    "a flag that is a text": (
        added("[l402]", 'append_version_and_token = "yes"'),
        "[l402] append_version_and_token must be true or false.",
    ),
    "a flag where a number is": (
        added("[l402]", "challenge_calls = true"),
        "[l402] challenge_calls must be a number.",
    ),
    "no node": (without('address = "127.0.0.1:10009"'), "[[nodes]] address is missing."),
    "two nodes without numbers": (another_node(""), "[[nodes]] number 1 number is missing: it stands in"),
    "two nodes of one name": (
        chained(added("[[nodes]]", "number = 0"), another_node("number = 1")),
        "[[nodes]] name lnd is given to 2 nodes: each needs its own.",
    ),
    "two nodes of one number": (
        chained(added("[[nodes]]", "number = 3"), another_node('name = "spare"\nnumber = 3')),
        "[[nodes]] number 3 is given to 2 nodes: each needs its own.",
    ),
    "a node without a port": (
        added("[[nodes]]", 'address = "127.0.0.1"'),
        "[[nodes]] address must be host:port, like 127.0.0.1:10009.",
    ),
    "a node's port that is none": (
        added("[[nodes]]", 'address = "127.0.0.1:70000"'),
        "[[nodes]] address must be host:port, like 127.0.0.1:10009.",
    ),
    "an unknown kind of node": (added("[[nodes]]", 'kind = "eclair"'), "[[nodes]] kind must be one of lnd"),
    "a file of another kind of node": (
        added("[[nodes]]", 'ca_cert_file = "ca.pem"'),
        'is a setting of kind = "cln"; a node of kind "lnd" has tls_cert_file and macaroon_file.',
    ),
    "an unknown network": (
        added("[[nodes]]", 'network = "main"'),
        "[[nodes]] network must be one of mainnet, testnet, signet, regtest, simnet.",
    ),
    "a node whose smallest invoice is above its largest": (
        added("[[nodes]]", "minimum_sats = 100\nmaximum_sats = 10"),
        "[[nodes]] minimum_sats is above maximum_sats.",
    ),
    "a certificate that is not there": (
        added("[[nodes]]", 'tls_cert_file = "nowhere.cert"'),
        "/nowhere.cert, which cannot be read: No such file or directory.",
    ),
    "a macaroon that is empty": (added("[[nodes]]", 'macaroon_file = "empty"'), "/empty, which is empty."),
    "a certificate that is a folder": (
        added("[[nodes]]", 'tls_cert_file = "."'),
        "which cannot be read: Is a directory.",
    ),
    "a backend without scheme": (
        added("[backend]", 'url = "127.0.0.1:11434/v1"'),
        "[backend] the backend's URL begins with http:// or https:// and has a host.",
    ),
    "a backend's address with a password": (
        added("[backend]", 'url = "http://me:secret@host/v1"'),
        "[backend] the backend's URL has no user name, query or fragment; keys go into api_key.",
    ),
    "a backend's key twice": (
        added("[backend]", 'api_key = "k"\napi_key_file = "backend.key"'),
        "[backend] api_key and api_key_file are both given: keep one.",
    ),
    "a public address whose port is none": (
        added("[gateway]", 'public_url = "http://host:99999"'),
        "[gateway] public_url must be the address that payers use, like https://api.example.com.",
    ),
    "a listener's port in letters": (
        added("[gateway]", 'listen = "127.0.0.1:http"'),
        "[gateway] listen must be host:port, like 127.0.0.1:8402.",
    ),
    "a backend's key file that is not there": (
        added("[backend]", 'api_key_file = "nowhere.key"'),
        "/nowhere.key, which cannot be read: No such file or directory.",
    ),
    "a listener without port": (
        added("[gateway]", 'listen = "127.0.0.1"'),
        "[gateway] listen must be host:port, like 127.0.0.1:8402.",
    ),
    "one address for both listeners": (
        added("[gateway]", 'operator_listen = "127.0.0.1:8402"'),
        "[gateway] listen and operator_listen are the same address.",
    ),
    "a public address that is none": (
        added("[gateway]", 'public_url = "api.example.com"'),
        "[gateway] public_url must be the address that payers use, like https://api.example.com.",
    ),
    "a public address that cannot be read": (
        added("[gateway]", 'public_url = "http://[::1"'),
        "[gateway] public_url must be the address that payers use, like https://api.example.com.",
    ),
    "a proxy that is a name": (
        added("[gateway]", 'trusted_proxies = ["proxy"]'),
        "[gateway] trusted_proxies holds 'proxy', which is not an address or a network.",
    ),
    "proxies that are no list": (
        added("[gateway]", 'trusted_proxies = "127.0.0.1"'),
        '[gateway] trusted_proxies must be a list, like ["127.0.0.1", "10.0.0.0/8"].',
    ),
    "an unknown log level": (
        added("[gateway]", 'log_level = "loud"'),
        "[gateway] log_level must be one of debug, info, warning, error.",
    ),
    "another database": (
        added("[store]", 'url = "mysql://localhost/arkgate"'),
        '[store] url must look like "sqlite:///arkgate.db" or "postgresql://user@host/database".',
    ),
    "a PostgreSQL server without a database": (
        added("[store]", 'url = "postgresql://user@localhost:5432"'),
        '[store] url must look like "postgresql://user@host/database".',
    ),
    "a PostgreSQL server on no port": (
        added("[store]", 'url = "postgresql://user@localhost:x/arkgate"'),
        '[store] url must look like "postgresql://user@host/database".',
    ),
    "a database without a name": (
        added("[store]", 'url = "sqlite:///"'),
        '[store] url must look like "sqlite:///arkgate.db" or "postgresql://user@host/database".',
    ),
    "answers that are kept for less than a day": (
        added("[store]", "answers_kept_hours = 1"),
        "[store] answers_kept_hours must be a number between 24 and 8760.",
    ),
    "unpaid invoices forgotten while they may still be paid": (
        added("[store]", "unpaid_kept_days = 29"),
        "[store] unpaid_kept_days must be a number between 30 and 3650.",
    ),
    "a path that belongs to the gateway": (
        added("[[services]]", 'path = "/v1/chat"'),
        "[[services]] path must be like /api/ai-chat, or /api/ for all under it, and none of the gateway's",
    ),
    "a path without slash": (
        added("[[services]]", 'path = "chat"'),
        "[[services]] path must be like /api/ai-chat, or /api/ for all under it, and none of the gateway's",
    ),
    "a service's name with capitals": (
        added("[[services]]", 'name = "AI chat"'),
        "[[services]] name must be lower-case letters, digits and underscores, beginning with a letter.",
    ),
    "two services": (
        appended('[[services]]\nname = "other"\npath = "/other"\n'),
        '[[services]] may have one entry of kind = "chat".',
    ),
    "a session's minimum above its maximum": (
        added("[sessions]", "minimum_sats = 100\nmaximum_sats = 10"),
        "[sessions] minimum_sats is above maximum_sats.",
    ),
    "a limit of nothing": (
        added("[limits]", "sessions_per_hour = 0"),
        "[limits] sessions_per_hour must be a number between 1 and 1000000000.",
    ),
}


@pytest.mark.parametrize(("change", "sentence"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_setting_is_refused_with_one_sentence(tmp_path: Path, change: Change, sentence: str) -> None:
    found = problems(tmp_path, change(GOOD))

    assert sentence in found[0]
    assert all(problem.endswith(".") for problem in found)


def test_all_problems_are_said_at_once(tmp_path: Path) -> None:
    text = added("[backend]", "model = 1")(added("[gateway]", 'listn = ""')(without("macaroon_file")(GOOD)))

    assert len(problems(tmp_path, text)) == 3


def test_a_file_that_is_not_there_or_is_no_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(settings.SettingsError, match=r"cannot be read: No such file.*arkgate init"):
        settings.load(tmp_path / "nowhere.toml")
    assert "is not valid TOML" in problems(tmp_path, "[gateway\n")[0]
    (tmp_path / "arkgate.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(settings.SettingsError, match="is not valid TOML"):
        settings.load(tmp_path / "arkgate.toml")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"\n"], ids=["binary", "blank"])
def test_a_key_file_that_holds_no_text_is_refused(tmp_path: Path, content: bytes) -> None:
    path = written(tmp_path, added("[backend]", 'api_key_file = "backend.key"')(GOOD))
    (tmp_path / "backend.key").write_bytes(content)

    with pytest.raises(settings.SettingsError, match=r"backend\.key, which holds no text"):
        settings.load(path)


def test_the_backends_key_may_stand_in_a_file(tmp_path: Path) -> None:
    loaded = settings.load(written(tmp_path, added("[backend]", 'api_key_file = "backend.key"')(GOOD)))

    assert loaded.offers.backends["ai_chat"][0].api_key == "content"
    assert "content" not in repr(loaded)


WARNED = {
    "a node too small for a challenge": (
        added("[[nodes]]", "maximum_sats = 49"),
        "asks for 50 sats, and node lnd makes no invoice above 49",
    ),
    "a challenge that clients refuse": (added("[[services]]", "price_sats = 1001"), "refuse more than 1000"),
    "a challenge for more calls than a day has": (
        added("[l402]", "challenge_calls = 6"),
        "sells 6 calls and one day allows 5",
    ),
    "plain http beyond this machine": (
        added("[gateway]", 'public_url = "http://api.example.com"'),
        "public_url is plain http",
    ),
    "an operator's listener for all": (
        added("[gateway]", 'operator_listen = "0.0.0.0:8403"'),
        "operator_listen is not on loopback",
    ),
}


@pytest.mark.parametrize("value", ['"365 days"', '""', "30"])
def test_a_balance_never_expires_and_another_wish_is_refused(tmp_path: Path, value: str) -> None:
    (problem,) = problems(tmp_path, added("[sessions]", f"balance_expiry = {value}")(GOOD))

    assert problem.startswith("[sessions] balance_expiry must be")
    loaded = settings.load(written(tmp_path, added("[sessions]", 'balance_expiry = "never"')(GOOD)))
    assert loaded.catalog.balance_expiry.value == "never"
    assert loaded == settings.load(written(tmp_path))


@pytest.mark.parametrize(("change", "sentence"), WARNED.values(), ids=WARNED)
def test_what_is_allowed_and_unwise_is_said(tmp_path: Path, change: Change, sentence: str) -> None:
    (warning,) = settings.load(written(tmp_path, change(GOOD))).warnings

    assert sentence in warning


def uncommented(text: str) -> str:
    """The template with every optional setting switched on."""
    return re.sub(r"^# ([a-z0-9_]+ = |\[)", r"\1", text, flags=re.MULTILINE)


def filled_in(text: str) -> str:
    blanks = {"tls_cert_file": "tls.cert", "macaroon_file": "invoice.macaroon", "url": "http://h/v1"}
    for name, value in {**blanks, "model": "m"}.items():
        text = text.replace(f'{name} = "" ', f'{name} = "{value}" ')
    return text


def test_every_line_of_the_template_is_a_setting_with_its_default(tmp_path: Path) -> None:
    plain = settings.load(written(tmp_path, filled_in(TEMPLATE)))
    further = re.compile(r"# Any other HTTP API.*?(?=\[cache\])|\[fiat\].*?(?=\[limits\])", re.DOTALL)
    text = further.sub("", without("api_key_file")(filled_in(uncommented(TEMPLATE))))
    examples = {
        "public_url",
        "contact",
        "trusted_proxies",
        "tls_server_name",
        "network",
        "system_prompt",
        "max_tokens",
    }
    for name in examples:
        text = without(f"{name} = ")(text)

    assert settings.load(written(tmp_path, text)) == plain


def test_every_commented_example_of_the_template_is_accepted(tmp_path: Path) -> None:
    loaded = settings.load(written(tmp_path, filled_in(uncommented(TEMPLATE))))

    assert loaded.public_url == "https://api.example.com"
    assert loaded.contact == "mailto:me@example.com"
    assert loaded.offers.ai_chat.system_prompt == "Answer concisely."
    assert loaded.nodes[0].network == "mainnet"


OF_SEVERAL = {"models", "api_key_header", "priority", "weight"}
"""What a single backend hardly needs."""
OF_ITS_OWN = {
    "model_label",
    "system_prompt",
    "max_tokens",
    "heartbeat_seconds",
    "drain_seconds",
    "request_bytes_max",
    "hold_margin_seconds",
    "server_tools",
}
"""What `[backend]` says of all of them."""


def known_of(table: str) -> set[str]:
    return {one.name for one in settings.known()["lnd"] if one.table.strip("[]") == table}


def test_the_template_names_every_setting_that_operators_need() -> None:
    """What the reader knows and the template leaves out is listed here, on purpose."""
    left_out = {
        "gateway": {"grace_seconds"},
        "backend": {
            "idle_timeout_seconds",
            "answer_bytes_max",
            "stream_bytes_max",
            "request_bytes_max",
            "hold_margin_seconds",
            "ca_file",
            "api_key",
            *OF_SEVERAL,
        },
        "backends": {name for name in known_of("backend") if name not in OF_ITS_OWN} - {"url"},
        "services": {
            "description",
            "second_sats",
            "kilobyte_sats",
            "hold_sats",
            "strip_path",
            "request_headers",
            "response_headers",
            "request_bytes_max",
        },
        "models": {"price_sats"},
        "cache": {"entry_bytes_max", "tools"},
        "fiat": {"rate", "refresh_seconds"},
    }
    document: dict[str, Any] = tomllib.loads(uncommented(TEMPLATE))
    known: dict[str, set[str]] = {}
    for setting in settings.known()["lnd"]:
        known.setdefault(setting.table.strip("[]"), set()).add(setting.name)

    for table, names in known.items():
        entries = document[table] if isinstance(document[table], list) else [document[table]]
        given = [name for entry in entries for name in entry]
        assert names == set(given) | left_out.get(table, set()), table
