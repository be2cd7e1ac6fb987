"""The archive of a ledger: gzipped JSON lines that any engine can be restored from.

The first line names the format, the tables' revision, the moment, and every table with its columns. A
row is a list of the table's name and its values, bytes as base64. The last line has the number of
rows of each table and the SHA-256 of every byte before it, so that a cut or changed archive is found
before it is used. The secret keys are not in it.
"""

import asyncio
import base64
import binascii
import gzip
import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import orjson

from arkgate.core.reports import Column, Table
from arkgate.ports import Snapshot
from arkgate.store.durable import new_file
from arkgate.store.revisions import REVISIONS
from arkgate.store.snapshot import BATCH_ROWS

FORMAT = 1
LINE_BYTES_MAX = 256 * 1024 * 1024
"""A stored answer is one value of one line; the settings keep it far below this."""
FACTS_TABLE = "meta"
_COMPRESSION = 3


class ArchiveError(Exception):
    """The archive cannot be used, or the ledger cannot be archived; the sentence says why."""


@dataclass(frozen=True, slots=True)
class Archive:
    """What an archive says of itself, after all of it was read and its digest was right."""

    path: Path
    revision: str
    taken_at_ms: int
    tables: Mapping[str, Table]
    row_counts: Mapping[str, int]
    facts: Mapping[str, int]
    """What the books noted about themselves, the keys' fingerprints among it."""


async def write_archive(snapshot: Snapshot, path: Path) -> Mapping[str, int]:
    """Writes the books as they are in the snapshot; answers the number of rows of each table.

    The file appears under its name when it is complete and durable, readable by its owner only. Raises
    ArchiveError when a file of that name exists or the tables are newer than this program, OSError when
    the disk is full.
    """
    if snapshot.revision != REVISIONS[-1]:
        raise ArchiveError(
            f"the ledger's tables are of revision {snapshot.revision} and this version of arkgate writes "
            f"archives of {REVISIONS[-1]}: use the version that the gateway runs"
        )
    with _never_over(path), new_file(path) as raw:
        writer = _Writer(raw)
        await asyncio.to_thread(writer.begin, snapshot)
        for table in snapshot.tables:
            encode = _encoder(table)
            async for batch in snapshot.rows(table):
                await asyncio.to_thread(writer.write, table.name, encode, batch)
        return await asyncio.to_thread(writer.end)


class _Writer:
    """Lines into a gzip stream, counted and digested."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._file = gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=_COMPRESSION, filename="")
        self._digest = hashlib.sha256()
        self._counts: dict[str, int] = {}

    def begin(self, snapshot: Snapshot) -> None:
        self._counts = {table.name: 0 for table in snapshot.tables}
        self._put(
            orjson.dumps(
                {
                    "arkgate_backup": FORMAT,
                    "revision": snapshot.revision,
                    "taken_at_ms": snapshot.taken_at_ms,
                    "tables": {
                        table.name: {column.name: column.kind for column in table.columns}
                        for table in snapshot.tables
                    },
                }
            )
            + b"\n"
        )

    def write(
        self, table: str, encode: Callable[[Sequence[Any]], list[Any]], rows: Sequence[Sequence[Any]]
    ) -> None:
        self._counts[table] += len(rows)
        self._put(b"".join(orjson.dumps([table, *encode(row)]) + b"\n" for row in rows))

    def end(self) -> Mapping[str, int]:
        last = {"rows": self._counts, "sha256": self._digest.hexdigest()}
        self._file.write(orjson.dumps(last) + b"\n")
        self._file.close()
        return self._counts

    def _put(self, lines: bytes) -> None:
        self._digest.update(lines)
        self._file.write(lines)


def _encoder(table: Table) -> Callable[[Sequence[Any]], list[Any]]:
    in_bytes = [position for position, column in enumerate(table.columns) if column.kind == "bytes"]

    def encode(row: Sequence[Any]) -> list[Any]:
        values = list(row)
        for position in in_bytes:
            if values[position] is not None:
                values[position] = base64.b64encode(values[position]).decode()
        return values

    return encode


def read_archive(path: Path) -> Archive:
    """Reads all of an archive and checks it; nothing is kept of it but what it says of itself.

    Raises ArchiveError for what is cut, changed, of another format, or of a revision of the tables that
    this version of the program does not know.
    """
    with _readable(path), gzip.open(path, "rb") as file:
        lines = _Lines(file)
        revision, taken_at_ms, tables = _head(lines.next(), path)
        counts = dict.fromkeys(tables, 0)
        facts: dict[str, int] = {}
        while (line := lines.next()) and line.startswith(b"["):
            name, values = _row(line, tables, path)
            counts[name] += 1
            if name == FACTS_TABLE:
                fact = dict(zip((column.name for column in tables[name].columns), values, strict=True))
                facts[str(fact["name"])] = int(fact["value"])
        _check_end(line, lines, counts, path)
    return Archive(path, revision, taken_at_ms, tables, counts, facts)


def archived_rows(archive: Archive) -> Iterator[tuple[Table, list[tuple[Any, ...]]]]:
    """The rows of an archive that was read before, in batches of one table each, in the same order.

    Raises ArchiveError when the file is not what it was any more.
    """
    with _readable(archive.path), gzip.open(archive.path, "rb") as file:
        lines = _Lines(file)
        lines.next()
        counts = dict.fromkeys(archive.tables, 0)
        batch: list[tuple[Any, ...]] = []
        current = ""
        while (line := lines.next()) and line.startswith(b"["):
            name, values = _row(line, archive.tables, archive.path)
            counts[name] += 1
            if batch and (name != current or len(batch) == BATCH_ROWS):
                yield archive.tables[current], batch
                batch = []
            current = name
            batch.append(values)
        if batch:
            yield archive.tables[current], batch
        _check_end(line, lines, counts, archive.path)


class _Lines:
    """The lines of an archive, and the digest of those that came before the latest."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._latest = b""

    def next(self) -> bytes:
        """The next line; empty at the end. Raises ValueError for one of more than `LINE_BYTES_MAX`."""
        self._digest.update(self._latest)
        self._latest = self._file.readline(LINE_BYTES_MAX)
        if len(self._latest) == LINE_BYTES_MAX:
            raise ValueError("one of its lines is longer than any that is written")
        return self._latest

    @property
    def digest_before(self) -> str:
        """The SHA-256 of every byte before the latest line."""
        return self._digest.hexdigest()


def _head(line: bytes, path: Path) -> tuple[str, int, Mapping[str, Table]]:
    head = orjson.loads(line)
    version, revision = head["arkgate_backup"], str(head["revision"])
    if version != FORMAT:
        raise ArchiveError(f"{path} is an archive of format {version}; this version reads format {FORMAT}")
    if revision not in REVISIONS:
        raise ArchiveError(
            f"{path} has tables of revision {revision}, which this version of arkgate does not know "
            f"(it knows up to {REVISIONS[-1]}): use the version that wrote it, or a newer one"
        )
    tables = {
        str(name): Table(str(name), tuple(Column(str(column), str(kind)) for column, kind in columns.items()))
        for name, columns in head["tables"].items()
    }
    return revision, int(head["taken_at_ms"]), tables


def _row(line: bytes, tables: Mapping[str, Table], path: Path) -> tuple[str, tuple[Any, ...]]:
    name, *values = orjson.loads(line)
    table = tables[name]
    if len(values) != len(table.columns):
        raise ArchiveError(f"{path} is damaged: a row of {name} has {len(values)} values")
    return name, tuple(map(_value, table.columns, values))


def _value(column: Column, value: object) -> object:
    if value is None:
        return None
    if column.kind == "bytes" and isinstance(value, str):
        return base64.b64decode(value, validate=True)
    if column.kind == "text" and isinstance(value, str):
        return value
    if column.kind == "integer" and isinstance(value, int) and not isinstance(value, bool):
        if -(2**63) <= value < 2**63:
            return value
        raise ValueError(f"a value of {column.name} is larger than any that is written")
    raise ValueError(f"a value of {column.name} is no {column.kind}")


def _check_end(line: bytes, lines: _Lines, counts: Mapping[str, int], path: Path) -> None:
    if not line:
        raise ArchiveError(f"{path} is cut short: its last line is missing")
    digest = lines.digest_before
    end = orjson.loads(line)
    if end["rows"] != counts or end["sha256"] != digest or lines.next():
        raise ArchiveError(f"{path} is damaged: its content is not what its last line says")


@contextmanager
def _never_over(path: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError as error:
        raise ArchiveError(f"{path} exists and is left as it is") from error


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Whatever bytes are read there, what is wrong with them is an ArchiveError."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ArchiveError(f"{path} is cut short or damaged: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
        raise ArchiveError(f"{path} is damaged, or no archive of a ledger: {error}") from error
