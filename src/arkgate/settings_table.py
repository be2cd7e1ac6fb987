"""One table of the settings' file: reads its values, and notes what is wrong and which settings there are."""

import difflib
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from arkgate.web.client import Network


@dataclass(frozen=True, slots=True)
class Address:
    """Where a listener binds."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """Where programs on this host reach it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - read, not bound
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def is_port(text: str) -> bool:
    """Whether a text is the number of a TCP port."""
    return re.fullmatch(r"[0-9]{1,5}", text) is not None and 1 <= int(text) <= 0xFFFF


def _is_url(text: str) -> bool:
    """Whether a text is a URL of HTTP, and nothing but a base."""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    return bool(usable) and "?" not in text and "#" not in text


class _Missing:
    """Stands for a default that is not there."""


_REQUIRED: Final = _Missing()


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting as it is read: what may stand there, and what counts when nothing does."""

    table: str
    """As it stands in the file, such as `[gateway]` or `[[nodes]]`."""
    name: str
    values: str
    """What may stand there, in words."""
    default: object | None
    """None where it has to be given, and an empty text where it may be left out."""


@dataclass(slots=True)
class Notes:
    """What was noted while a document was read."""

    problems: list[str] = field(default_factory=list)
    settings: dict[tuple[str, str], Setting] = field(default_factory=dict)
    """Every setting that was looked for, by table and name, in the order of the reading."""


class Table:
    """One table of the document; notes what is wrong, and gives a harmless value in its place."""

    def __init__(self, where: str, values: Mapping[str, object], notes: Notes, base: Path) -> None:
        self.where = where
        self.given = values
        self._known: set[str] = set()
        self._notes = notes
        self._base = base

    def _value(self, name: str) -> object | None:
        self._known.add(name)
        return self.given.get(name)

    def _note(self, name: str, values: str, default: object) -> None:
        """Notes that there is such a setting; what was noted of it first counts."""
        table = re.sub(r" number \d+$", "", self.where)
        known = None if isinstance(default, _Missing) else default
        self._notes.settings.setdefault((table, name), Setting(table, name, values, known))

    def _wrong(self, name: str, must: str) -> None:
        self._notes.problems.append(f"{self.where} {name} {must}.".strip())

    def table(self, name: str) -> "Table":
        value = self._value(name)
        if value is not None and not isinstance(value, dict):
            self._wrong(name, "must be a table: write [" + name + "]")
            value = None
        return Table(f"[{name}]", value or {}, self._notes, self._base)

    def tables(self, name: str) -> list["Table"]:
        value = self._value(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            self._wrong(name, f"must be a list of tables: write [[{name}]]")
            return []
        many = len(value) > 1
        return [
            Table(
                f"[[{name}]] number {number + 1}" if many else f"[[{name}]]",
                entry,
                self._notes,
                self._base,
            )
            for number, entry in enumerate(value)
        ]

    def text(self, name: str, default: "str | _Missing" = _REQUIRED) -> str:
        self._note(name, "a text", default)
        value = self._value(name)
        if value is None:
            if isinstance(default, _Missing):
                self._wrong(name, "is missing")
                return ""
            return default
        if not isinstance(value, str) or (isinstance(default, _Missing) and not value.strip()):
            self._wrong(name, "must be a text in quotes, and not empty")
            return ""
        return value

    def matching(self, name: str, pattern: re.Pattern[str], default: str) -> str:
        value = self.text(name, default)
        if not pattern.match(value):
            self._wrong(name, "must be lower-case letters, digits and underscores, beginning with a letter")
        return value

    def one_of(self, name: str, choices: tuple[str, ...], default: str) -> str:
        self._note(name, ", ".join(choice for choice in choices if choice), default)
        value = self.text(name, default)
        if value not in choices:
            self._wrong(name, "must be one of " + ", ".join(choice for choice in choices if choice))
            return default
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        self._note(name, "true or false", default)
        value = self._value(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self._wrong(name, "must be true or false")
            return default
        return value

    def number(self, name: str, default: float, minimum: float, maximum: float) -> float:
        self._note(name, f"{minimum} to {maximum}", default)
        value = self._value(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self._wrong(name, "must be a number")
            return default
        if not minimum <= value <= maximum or (isinstance(minimum, int) and value != int(value)):
            self._wrong(name, f"must be a number between {minimum} and {maximum}")
            return default
        return value

    def path(self, name: str, default: str) -> Path:
        self._note(name, "a path", default)
        return (self._base / Path(self.text(name, default)).expanduser()).absolute()

    def file(self, name: str, *, required: bool = True) -> Path:
        self._note(name, "the path of a file", _REQUIRED if required else "")
        text = self.text(name) if required else self.text(name, "")
        if not text:
            return Path()
        path = (self._base / Path(text).expanduser()).absolute()
        try:
            if not path.read_bytes():
                self._wrong(name, f"names {path}, which is empty")
        except OSError as error:
            self._wrong(name, f"names {path}, which cannot be read: {error.strerror}")
        return path

    def secret(self, name: str) -> str | None:
        """A secret that stands here or in the file that `<name>_file` names."""
        self._note(name, "a secret", "")
        direct = self.text(name, "")
        if name in self.given and isinstance(self.given[name], str) and not direct.strip():
            self._wrong(name, f"is empty: leave it out, or name a file in {name}_file")
        file = self.file(f"{name}_file", required=False)
        if direct and file != Path():
            self._wrong(name, f"and {name}_file are both given: keep one")
        if file == Path() or not file.is_file():
            return direct or None
        try:
            text = file.read_text().strip()
        except UnicodeDecodeError:
            text = ""
        except OSError:  # `file` has said why
            return None
        if not text:
            self._wrong(f"{name}_file", f"names {file}, which holds no text")
        return text or None

    def address(self, name: str, default: str) -> Address:
        self._note(name, "host:port", default)
        text = self.text(name, default)
        host, _, port = text.rpartition(":")
        if not host or not (is_port(port) or port == "0"):
            self._wrong(name, "must be host:port, like 127.0.0.1:8402")
            return Address("127.0.0.1", 0)
        return Address(host.strip("[]"), int(port))

    def url(self, name: str, default: str) -> str:
        self._note(name, "a URL", default)
        text = self.text(name, default)
        if not _is_url(text):
            self._wrong(name, "must be the address that payers use, like https://api.example.com")
            return default
        return text

    def contact(self, name: str) -> str:
        """How the operator is reached: mailto:, https: or tel:; empty where it is not said."""
        self._note(name, "`mailto:…` or `https://…`", "")
        text = self.text(name, "")
        if text and not re.match(r"(mailto:|https://|tel:)[!-~]+\Z", text):
            self._wrong(name, "must be like mailto:me@example.com or https://example.com/contact")
        return text

    def service(self, name: str) -> str:
        """The base URL of a service that is called, without a slash at its end."""
        self._note(name, "a URL", _REQUIRED)
        text = self.text(name).rstrip("/")
        if text and not _is_url(text):
            self._wrong(name, "must be a URL, like https://api.example.com")
        return text

    def optional_service(self, name: str) -> str:
        """A URL that is asked, which may have a query; empty where there is none."""
        self._note(name, "a URL", "")
        text = self.text(name, "")
        if text and not _is_url(text.partition("?")[0]):
            self._wrong(name, "must be a URL, like https://api.example.com/price")
            return ""
        return text

    def empty(self, where: str) -> "Table":
        """A table that is not there, so that its defaults count."""
        return Table(where, {}, self._notes, self._base)

    def texts(self, name: str, default: tuple[str, ...]) -> tuple[str, ...]:
        """A list of texts."""
        self._note(name, "a list of texts", ", ".join(default))
        value = self._value(name)
        if value is None:
            return default
        if not isinstance(value, list) or not all(isinstance(entry, str) and entry for entry in value):
            self._wrong(name, "must be a list of texts in quotes")
            return default
        return tuple(value)

    def texts_by_name(self, name: str) -> dict[str, str]:
        """A table of texts."""
        self._note(name, "a table of texts", "")
        value = self._value(name)
        if value is None:
            return {}
        if not isinstance(value, dict) or not all(
            isinstance(entry, str) and entry for entry in value.values()
        ):
            self._wrong(name, 'must be like {"name for callers" = "name of the backend"}')
            return {}
        return dict(value)

    def networks(self, name: str) -> tuple[Network, ...]:
        self._note(name, "a list of addresses and networks", "")
        value = self._value(name)
        if value is None:
            return ()
        if not isinstance(value, list):
            self._wrong(name, 'must be a list, like ["127.0.0.1", "10.0.0.0/8"]')
            return ()
        found = []
        for entry in value:
            try:
                found.append(ipaddress.ip_network(str(entry)))
            except ValueError:
                self._wrong(name, f"holds {entry!r}, which is not an address or a network")
        return tuple(found)

    def refuse_unknown(self, known_elsewhere: Mapping[str, str] = MappingProxyType({})) -> None:
        """Notes every name that was not read; of one that is known elsewhere, what is said of it there."""
        for name in self.given:
            if name in self._known:
                continue
            near = difflib.get_close_matches(name, self._known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            self._wrong(name, known_elsewhere.get(name, f"is not a setting{hint}"))
