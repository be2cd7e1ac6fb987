"""wrk as the load: runs it on its own core and reads what it prints."""

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LOAD_CORE = 1
_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of wrk saw."""

    per_second: float
    p50_ms: float
    p99_ms: float
    requests: int
    not_2xx: int


def load(
    url: str,
    script: Path,
    *,
    clients: int,
    seconds: float,
    headers: Sequence[Mapping[str, str]] = ({},),
    body: str | None = None,
) -> Load:
    """Sends the same body, with one set of headers after the other, for that many seconds."""
    script.write_text(_lua(headers, body))
    command = [
        "taskset",
        "-c",
        str(LOAD_CORE),
        "wrk",
        "-t1",
        f"-c{clients}",
        f"-d{seconds:.0f}s",
        "--latency",
        "--timeout",
        "10s",
    ]
    done = subprocess.run([*command, "-s", str(script), url], capture_output=True, text=True, check=True)
    return _read(done.stdout)


def _lua(headers: Sequence[Mapping[str, str]], body: str | None) -> str:
    sets = ",\n".join(
        "{" + ", ".join(f"[{_quoted(name)}] = {_quoted(value)}" for name, value in one.items()) + "}"
        for one in headers
    )
    method = "GET" if body is None else "POST"
    text = "nil" if body is None else _quoted(body)
    return f"""\
local sets = {{ {sets} }}
local next = 0
request = function()
  next = next % #sets + 1
  return wrk.format("{method}", nil, sets[next], {text})
end
"""


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _read(text: str) -> Load:
    if re.search(r"Socket errors: (?!connect 0, read 0, write 0, timeout 0)", text):
        raise RuntimeError(f"wrk met socket errors:\n{text}")
    not_2xx = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    return Load(
        per_second=float(_found(r"Requests/sec:\s+([\d.]+)", text)[0]),
        p50_ms=_milliseconds(text, "50%"),
        p99_ms=_milliseconds(text, "99%"),
        requests=int(_found(r"(\d+) requests in", text)[0]),
        not_2xx=int(not_2xx.group(1)) if not_2xx else 0,
    )


def _milliseconds(text: str, percentile: str) -> float:
    number, unit = _found(rf"{percentile}\s+([\d.]+)(us|ms|s)\b", text)
    return float(number) * _UNITS[unit]


def _found(pattern: str, text: str) -> tuple[str, ...]:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"wrk printed something else than expected:\n{text}")
    return found.groups()
