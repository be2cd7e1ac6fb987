"""How commands show amounts, times and tables to people."""

import datetime
from collections.abc import Iterator, Sequence

from arkgate.core.money import MSAT_PER_SAT


def sats_shown(msat: int) -> str:
    """An amount in sats, with its millisatoshis only where there are any: `-50`, `0.250`."""
    whole, rest = divmod(abs(msat), MSAT_PER_SAT)
    return f"{'-' if msat < 0 else ''}{whole}{f'.{rest:03d}' if rest else ''}"


def time_shown(unix_ms: int) -> str:
    """A moment as RFC 3339 in UTC, to the millisecond."""
    moment = datetime.datetime.fromtimestamp(unix_ms // 1000, datetime.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{unix_ms % 1000:03d}Z"


def start_of_day_ms(day: datetime.datetime) -> int:
    """When that UTC day begins, Unix milliseconds."""
    return int(day.replace(tzinfo=datetime.UTC).timestamp()) * 1000


def table_lines(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows under each other: the first column to the left, the others, which are figures, to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        first, *others = (cell.ljust if not place else cell.rjust for place, cell in enumerate(row))
        cells = [first(widths[0]), *(cell(width) for cell, width in zip(others, widths[1:], strict=True))]
        yield "  ".join(cells).rstrip()
