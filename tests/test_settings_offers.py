"""The settings of what is sold: backends, models, services, headers; each problem is a sentence."""

from pathlib import Path

import pytest

from arkgate import settings
from arkgate.web.guard import COMMON_HEADERS
from arkgate.web.services import NEVER, RESPONSE_HEADERS
from tests.test_settings import GOOD, added, problems, written

ONLY_AN_API = """
[[services]]
kind = "http"
name = "weather"
path = "/weather/"
price_sats = 0.5
backends = ["weather"]
[[backends]]
name = "weather"
kind = "http"
url = "http://127.0.0.1:8081"
"""


def test_a_gateway_may_sell_an_api_and_no_ai(tmp_path: Path) -> None:
    nodes = GOOD.partition("[backend]")[0]
    loaded = settings.load(written(tmp_path, nodes + ONLY_AN_API))

    (service,) = loaded.catalog
    assert (service.name, service.price, service.calls_per_day) == ("weather", 500, None)
    assert loaded.catalog.chat is None
    (backend,) = loaded.offers.backends["weather"]
    assert not backend.speaks_openai


WRONG_OFFERS = {
    "a backend that is not there": ('backends = ["weather"]', 'backends = ["other"]', "which is not there"),
    "a backend of the wrong kind": (
        'kind = "http"\nurl',
        'kind = "openai"\nurl',
        'needs a backend of kind = "http"',
    ),
    "no price": ("price_sats = 0.5", "", "has no price"),
    "a metered price without a hold": ("price_sats = 0.5", "second_sats = 1", "hold_sats says"),
    "a method that is none": (
        'kind = "http"\nname',
        'methods = ["FETCH"]\nkind = "http"\nname',
        "methods must hold some of GET, POST",
    ),
    "no method": (
        'kind = "http"\nname',
        'methods = []\nkind = "http"\nname',
        "methods must hold some of GET, POST",
    ),
    "a price below a msat": (
        "price_sats = 0.5",
        "price_sats = 0.0001",
        "[[services]] price_sats is below a msat",
    ),
    "a unit's price below a msat": (
        "price_sats = 0.5",
        "kilobyte_sats = 0.0009\nhold_sats = 5",
        "kilobyte_sats is below a msat, of which a sat has a thousand: the least is 0.001.",
    ),
    "a hold for a fixed price": ("price_sats = 0.5", "price_sats = 2\nhold_sats = 5", "leave hold_sats out"),
    "a path that is not what it comes to": ('"/weather/"', '"/weather/../x"', "path has a . or .."),
    "a path with a dot": ('"/weather/"', '"/weather/./"', "path has a . or .."),
    "one path twice": (
        "[[backends]]",
        (
            '[[services]]\nkind = "http"\nname = "other"\npath = "/weather/"\nprice_sats = 1\n'
            'backends = ["weather"]\n[[backends]]'
        ),
        "[[services]] path /weather/ is given 2 times: each entry needs its own.",
    ),
    "one name twice": (
        "[[backends]]",
        (
            '[[services]]\nkind = "http"\nname = "weather"\npath = "/x"\nprice_sats = 1\n'
            'backends = ["weather"]\n[[backends]]'
        ),
        "[[services]] name weather is given 2 times: each entry needs its own.",
    ),
    "a key's header without a key": (
        'kind = "http"\nurl',
        'kind = "http"\napi_key_header = "X-Key"\nurl',
        "[[backends]] api_key_header is given without a key: add api_key_file, or leave it out.",
    ),
    "an empty key": (
        'kind = "http"\nurl',
        'kind = "http"\napi_key = " "\nurl',
        "[[backends]] api_key is empty: leave it out, or name a file in api_key_file.",
    ),
    "a header that must not pass": (
        'kind = "http"\nname',
        'request_headers = ["Authorization"]\nkind = "http"\nname',
        "cannot pass",
    ),
    "a path under /v1/": ('"/weather/"', '"/v1/weather/"', "none of the gateway's own"),
    "the path of a page": ('"/weather/"', '"/docs/"', "none of the gateway's own"),
    "a path with two slashes": ('"/weather/"', '"/weather//x"', "path must be like"),
    "two backends of one name": (
        "[[backends]]",
        '[[backends]]\nname = "weather"\nkind = "http"\nurl = "http://h"\n[[backends]]',
        "given twice",
    ),
}


@pytest.mark.parametrize(("old", "new", "sentence"), WRONG_OFFERS.values(), ids=WRONG_OFFERS)
def test_a_wrong_offer_is_refused_with_a_sentence(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    text = GOOD.partition("[backend]")[0] + ONLY_AN_API.replace(old, new, 1)

    assert any(sentence in problem for problem in problems(tmp_path, text))


PART = "is for a part of the question's tokens: give input_sats_per_million, too."


@pytest.mark.parametrize(
    ("prices", "sentence"),
    [
        (
            "input_sats_per_million = 100\ncached_sats_per_million = 101",
            "cached_sats_per_million is at most input_sats_per_million.",
        ),
        ("price_sats = 1\ncache_write_sats_per_million = 100", f"cache_write_sats_per_million {PART}"),
        ("price_sats = 1\ncached_sats_per_million = 100", f"cached_sats_per_million {PART}"),
        ("output_sats_per_million = 1\ncached_sats_per_million = 1", f"cached_sats_per_million {PART}"),
    ],
)
def test_prices_by_which_a_hold_would_be_too_small_are_refused(
    tmp_path: Path, prices: str, sentence: str
) -> None:
    text = f'{GOOD}\n[[models]]\nname = "m"\n{prices}\n'

    assert problems(tmp_path, text) == [f"[[models]] m: {sentence}"]


@pytest.mark.parametrize("price", ["price_sats", "input_sats_per_million", "output_sats_per_million"])
def test_a_models_price_below_a_msat_is_refused(tmp_path: Path, price: str) -> None:
    text = f'{GOOD}\n[[models]]\nname = "m"\n{price} = 0.0001\n'

    (problem,) = problems(tmp_path, text)
    assert problem == (
        f"[[models]] {price} is below a msat, of which a sat has a thousand: the least is 0.001."
    )


def test_a_usual_length_above_the_longest_is_refused(tmp_path: Path) -> None:
    text = f'{GOOD}\n[[models]]\nname = "m"\nmax_tokens = 100\n'

    assert problems(tmp_path, text + "default_max_tokens = 101\n") == [
        "[[models]] m: default_max_tokens is above max_tokens: lower it, or leave it out."
    ]
    for line in ("default_max_tokens = 100\n", ""):
        (service,) = settings.load(written(tmp_path, text + line)).catalog
        assert service.models[0].max_tokens == 100


ROUTES = ["chat/completions", "completions", "embeddings", "responses", "messages/"]


@pytest.mark.parametrize("route", ROUTES)
def test_a_url_of_one_route_is_refused_where_the_base_is_wanted(tmp_path: Path, route: str) -> None:
    (problem,) = problems(tmp_path, added("[backend]", f'url = "http://h/v1/{route}"')(GOOD))

    assert problem == (
        f"[backend] url ends in /{route.rstrip('/')}, which the gateway adds itself: leave that out, so that "
        "it usually ends in /v1."
    )
    of_another_api = only_an_api().replace(":8081", f":8081/{route}")
    assert settings.load(written(tmp_path, of_another_api))


@pytest.mark.parametrize(
    ("url", "is_usable"),
    [
        ("memory", True),
        ("redis://127.0.0.1:6379/0", True),
        ("rediss://:secret@cache.example/0", True),
        ("valkey://cache", True),
        ("unix:///run/redis.sock", True),
        ("redis://", False),
        ("redis://:6379/0", False),
        ("redis://cache:x/0", False),
        ("unix://", False),
        ("http://cache", False),
    ],
)
def test_a_cache_is_somewhere(tmp_path: Path, url: str, is_usable: bool) -> None:
    path = written(tmp_path, f'{GOOD}[cache]\nurl = "{url}"\n')

    if is_usable:
        assert settings.load(path).offers.cache.url == url
    else:
        with pytest.raises(settings.SettingsError, match=r"\[cache\] url must be"):
            settings.load(path)


def test_who_would_turn_the_cache_off_is_told_how(tmp_path: Path) -> None:
    assert problems(tmp_path, GOOD + "[cache]\nenabled = false\n") == [
        "[cache] enabled is not a setting; ttl_seconds = 0 turns the cache off."
    ]


def test_models_have_prices_of_their_own(tmp_path: Path) -> None:
    models = """
[[models]]
name = "small"
[[models]]
name = "vendor/large"
input_sats_per_million = 0.5
output_sats_per_million = 1500
"""
    both = added("[backend]", 'models = {"small" = "s", "vendor/large" = "l"}')(GOOD)
    (service,) = settings.load(written(tmp_path, both + models)).catalog

    small, large = service.models
    assert small.tariff.call == 50_000
    assert (large.tariff.call, large.tariff.input_tokens, large.tariff.cached_tokens) == (0, 500, 500)
    assert large.tariff.output_tokens == 1_500_000


SEVERAL = """
[[backends]]
name = "one"
url = "http://127.0.0.1:8081/v1"
[[backends]]
name = "two"
url = "http://127.0.0.1:8082/v1"
"""


def beside_several(lines: str) -> str:
    """The good configuration with two backends, and `[backend]` with only these lines."""
    nodes, _, rest = GOOD.partition("[backend]")
    return f"{nodes}[backend]\n{lines}\n[[services]]{rest.partition('[[services]]')[2]}{SEVERAL}"


def test_what_concerns_all_backends_stands_beside_several(tmp_path: Path) -> None:
    lines = 'drain_seconds = 5\nheartbeat_seconds = 2\nsystem_prompt = "Be brief."\nmax_tokens = 7\n'
    lines += 'model_label = "m"\nrequest_bytes_max = 2048\nserver_tools = ["x"]\nhold_margin_seconds = 9'
    loaded = settings.load(written(tmp_path, beside_several(lines)))

    offers = loaded.offers
    assert [backend.name for backend in offers.backends["ai_chat"]] == ["one", "two"]
    assert (offers.fetch.drain_seconds, offers.fetch.heartbeat_seconds) == (5, 2)
    assert (offers.ai_chat.system_prompt, offers.ai_chat.max_tokens) == ("Be brief.", 7)
    assert [model.name for model in loaded.catalog.named("ai_chat").models] == ["m"]
    assert (offers.openai_bytes_max, offers.server_tools) == (2048, ("x",))
    assert (offers.hold_margin_seconds, loaded.call_deadline_seconds) == (9, 129)


def test_a_backend_with_a_url_is_one_beside_several(tmp_path: Path) -> None:
    loaded = settings.load(written(tmp_path, GOOD + SEVERAL))

    assert [backend.name for backend in loaded.offers.backends["ai_chat"]] == ["backend", "one", "two"]


@pytest.mark.parametrize("name", ["model", "api_key", "queue_max", "kind"])
def test_what_concerns_one_server_is_refused_beside_several(tmp_path: Path, name: str) -> None:
    (problem,) = problems(tmp_path, beside_several(f'drain_seconds = 5\n{name} = "x"'))

    assert problem == (
        f"[backend] {name} concerns one server: put it into its [[backends]] entry, "
        "or give [backend] a url as well."
    )


def with_models(*names: str) -> str:
    return "".join(f'[[models]]\nname = "{name}"\nprice_sats = 5\n' for name in names)


def test_a_model_that_the_backend_is_not_asked_for_is_refused(tmp_path: Path) -> None:
    assert problems(tmp_path, GOOD + with_models("small", "large")) == [
        (
            "[[models]] large: no backend has it. In place of model write all that one has into its "
            'entry: models = {"small" = "llama3.2", "large" = "its own name for it"}.'
        )
    ]


def test_a_label_that_the_table_of_models_lacks_is_refused(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, added("[backend]", 'models = {"m" = "own"}')(GOOD))

    assert problem.startswith("[[models]] arkgate-chat-v1: no backend has it.")


@pytest.mark.parametrize(
    ("one", "two", "lacking"),
    [
        ('models = {"small" = "s"}', 'models = {"small" = "s"}', ["large"]),
        ('models = {"small" = "s"}', 'model = "s"', ["large"]),
        ('models = {"other" = "s"}', 'models = {"other" = "s"}', ["small", "large"]),
        ('models = {"small" = "s"}', 'models = {"large" = "l"}', []),
        ('models = {"small" = "s"}', "", []),
    ],
)
def test_each_model_needs_one_of_several_backends(
    tmp_path: Path, one: str, two: str, lacking: list[str]
) -> None:
    several = SEVERAL.replace('8081/v1"', f'8081/v1"\n{one}').replace('8082/v1"', f'8082/v1"\n{two}')
    path = written(tmp_path, GOOD.partition("[backend]")[0] + several + with_models("small", "large"))

    try:
        found = []
        settings.load(path)
    except settings.SettingsError as error:
        found = [problem.partition(":")[0] for problem in error.problems]

    assert found == [f"[[models]] {name}" for name in lacking]


def test_two_models_of_one_name_are_refused(tmp_path: Path) -> None:
    text = added("[backend]", 'models = {"small" = "s"}')(GOOD) + with_models("small", "small")

    assert problems(tmp_path, text) == ["[[models]] name small is given 2 times: each entry needs its own."]


def only_an_api(*lines: str, backend: str = "") -> str:
    """A configuration with one HTTP service that has these lines, and with these at its backend."""
    service = ONLY_AN_API.replace('path = "/weather/"', "\n".join(['path = "/weather/"', *lines]))
    return f"{GOOD.partition('[backend]')[0]}{service}{backend}\n"


@pytest.mark.parametrize("name", ["Accept-Encoding", "User-Agent", "Host", "X-Request-ID", "Content-Length"])
def test_headers_that_the_gateway_writes_to_backends_are_not_passed(tmp_path: Path, name: str) -> None:
    (problem,) = problems(tmp_path, only_an_api(f'request_headers = ["accept", "{name}"]'))

    assert f"request_headers holds {name.lower()}, which " in problem


def told_to_callers() -> list[str]:
    """What the gateway tells on answers, but for what may be the backend's to tell."""
    exposed = dict(COMMON_HEADERS)[b"access-control-expose-headers"].decode().lower().split(", ")
    names = {*exposed, *(name.decode() for name, _ in COMMON_HEADERS)} - {*RESPONSE_HEADERS, *NEVER}
    return sorted({*names, "cache-control", "date", "request-id", "x-accel-buffering", "x-request-id"})


@pytest.mark.parametrize("name", told_to_callers())
def test_headers_that_the_gateway_writes_to_callers_are_not_passed(tmp_path: Path, name: str) -> None:
    (problem,) = problems(tmp_path, only_an_api(f'response_headers = ["etag", "{name}"]'))

    assert f"response_headers holds {name}, which the gateway writes itself: leave it out." in problem


def test_headers_that_are_the_backends_pass(tmp_path: Path) -> None:
    names = [*RESPONSE_HEADERS, "X-Weather", "Allow"]
    lines = f"response_headers = {names}", 'request_headers = ["X-Weather", "Cache-Control"]'
    loaded = settings.load(written(tmp_path, only_an_api(*lines)))

    terms = loaded.offers.http["weather"]
    assert terms.response_headers == tuple(name.lower() for name in names)
    assert terms.request_headers == ("x-weather", "cache-control")


@pytest.mark.parametrize("key", ['api_key = "k"', 'api_key_file = "backend.key"'])
def test_no_caller_writes_where_the_operators_key_goes(tmp_path: Path, key: str) -> None:
    text = only_an_api(
        'request_headers = ["X-Weather-Key"]', backend=f'{key}\napi_key_header = "x-weather-KEY"'
    )

    assert problems(tmp_path, text) == [
        (
            "[[services]] weather request_headers holds x-weather-key, in which backend weather gets its "
            "key: leave it out there."
        )
    ]


NOT_FOR_KEYS = [
    "Content-Length", "Transfer-Encoding", "Connection", "Host", "Content-Type", "Accept", "Accept-Encoding",
    "User-Agent", "X-Request-ID", "Idempotency-Key", "TE", "Expect",
]  # fmt: skip


@pytest.mark.parametrize("name", NOT_FOR_KEYS)
def test_a_key_goes_into_no_header_that_is_for_something_else(tmp_path: Path, name: str) -> None:
    (problem,) = problems(tmp_path, added("[backend]", f'api_key = "k"\napi_key_header = "{name}"')(GOOD))

    assert problem.startswith(f"[backend] api_key_header is {name}, which is not for keys")


@pytest.mark.parametrize("name", ["authorization", "X-API-Key", "api-key", "X-Goog-Api-Key", "Cookie"])
def test_a_key_goes_where_backends_look_for_it(tmp_path: Path, name: str) -> None:
    text = added("[backend]", f'api_key = "k"\napi_key_header = "{name}"')(GOOD)

    assert settings.load(written(tmp_path, text)).offers.backends["ai_chat"][0].api_key_header == name
