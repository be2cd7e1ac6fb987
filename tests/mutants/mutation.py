"""A mistake that can be made in a file, and the words that name it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one file: `text[start:end]` becomes `instead`."""

    path: str
    place: str
    """The statement, function or constant that is changed."""
    change: str
    """What is changed, in words that are unique in this place and stay so while other lines change."""
    start: int
    end: int
    instead: str

    @property
    def name(self) -> str:
        """What a list of equivalent mutants calls it."""
        return f"{'/'.join(self.path.split('/')[-2:])} {self.place}: {self.change}"

    def applied(self, text: str) -> str:
        """The file with the mistake in it."""
        return text[: self.start] + self.instead + text[self.end :]


def told_apart(mutants: Iterable[Mutant]) -> Iterator[Mutant]:
    """The mutants in order, each but once; those that would share a name are numbered."""
    seen: set[tuple[str, int, int, str]] = set()
    numbers: dict[str, Iterator[int]] = {}
    for mutant in sorted(mutants, key=lambda one: (one.path, one.start, one.end, one.change)):
        where = (mutant.path, mutant.start, mutant.end, mutant.instead)
        if where not in seen:
            seen.add(where)
            number = next(numbers.setdefault(mutant.name, count(1)))
            yield mutant if number == 1 else replace(mutant, change=f"{mutant.change} (#{number})")


def in_words(text: str, *, most: int = 70) -> str:
    """A piece of a program on one line, cut where it gets long."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"
