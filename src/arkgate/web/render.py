"""Pages: one place for templates, their words, their files and the headers that keep them safe."""

import hashlib
import tomllib
from datetime import UTC, datetime
from importlib import resources
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import Response

from arkgate.core.errors import NotFound
from arkgate.web.respond import raw_response

POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS: Final = (
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=()"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"vary", b"Accept"),
)
NO_STORE: Final = (b"cache-control", b"no-store")
_TYPES: Final = {
    "css": b"text/css; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "svg": b"image/svg+xml",
}
_FOR_EVER: Final = b"public, max-age=31536000, immutable"


class Words:
    """Every sentence of the pages by its key, from one file a language."""

    def __init__(self, language: str = "en") -> None:
        text = resources.files(__package__).joinpath("words", f"{language}.toml").read_text()
        self.language = language
        self._sentences = {
            f"{section}.{key}": sentence
            for section, sentences in tomllib.loads(text).items()
            for key, sentence in sentences.items()
        }

    @property
    def keys(self) -> frozenset[str]:
        """All of them."""
        return frozenset(self._sentences)

    def say(self, key: str, **values: object) -> str:
        """The sentence with its values. Raises KeyError."""
        sentence: str = self._sentences[key]
        return sentence.format(**values)


class Files:
    """The style sheet, the scripts and the icon, under names that change with their content."""

    def __init__(self) -> None:
        folder = resources.files(__package__).joinpath("static")
        self._files = {
            one.name: one.read_bytes() for one in folder.iterdir() if one.name.split(".")[-1] in _TYPES
        }

    def url(self, name: str) -> str:
        """Where a file is. Raises KeyError."""
        return f"/static/{hashlib.sha256(self._files[name]).hexdigest()[:12]}/{name}"

    async def serve(self, request: Request) -> Response:
        """`GET /static/{version}/{name}`: whatever the version, the file as it is now."""
        name = request.path_params["name"]
        content = self._files.get(name)
        if content is None:
            raise NotFound("There is no such file.")
        is_current = request.url.path == self.url(name)
        caching = _FOR_EVER if is_current else b"no-cache"
        kind = _TYPES[name.split(".")[-1]]
        return raw_response(content, headers=[(b"content-type", kind), (b"cache-control", caching)])


class Renderer:
    """Makes pages of templates. Everything that comes from outside is escaped."""

    def __init__(self, files: Files, words: Words, **everywhere: object) -> None:
        self.files = files
        self.say = words.say
        self._environment = Environment(
            loader=PackageLoader("arkgate.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.globals.update(t=words.say, file=files.url, language=words.language, **everywhere)
        self._environment.filters["moment"] = _moment
        self._environment.filters["sats"] = lambda amount: f"{amount:,}".replace(
            ",", "\N{NARROW NO-BREAK SPACE}"
        )

    def page(
        self,
        template: str,
        *,
        status: int = 200,
        headers: tuple[tuple[bytes, bytes], ...] = (NO_STORE,),
        **values: object,
    ) -> Response:
        """A page of a template."""
        text = self._environment.get_template(template).render(**values)
        return raw_response(text.encode(), status=status, headers=[*PAGE_HEADERS, *headers])


def _moment(unix_ms: int) -> str:
    """A moment for people, in UTC to the minute."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%-d %b %Y, %H:%M UTC")
