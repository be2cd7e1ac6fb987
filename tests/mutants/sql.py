"""Mistakes in SQL: a guard that is weaker, a sign that is wrong, a statement that is missing."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests.mutants.mutation import Mutant, in_words

_TOKEN = re.compile(
    r"(?P<space>\s+|--[^\n]*)|(?P<string>'(?:[^']|'')*')|(?P<number>\d+)"
    r"|(?P<word>[:$]?[A-Za-z_][\w.]*|\$\d+|\{\w+\})|(?P<sign>::|:=|<>|<=|>=|\|\||\$\$|.)",
    re.DOTALL,
)
_COMPARED = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "=": "<>", "<>": "="}
_SIGNS = {"+": "-", "-": "+"}
_WORDS = {
    "greatest": "least",
    "max": "min",
    "true": "false",
    "false": "true",
    "OR": "AND",
    "EXISTS": "NOT EXISTS",
}
_NAMES = {  # a state, kind or verb that is another one of its family, so that no CHECK refuses it at once
    "open": "settled",
    "settled": "released",
    "released": "settled",
    "expired": "cancelled",
    "cancelled": "expired",
    "customer": "asset",
    "asset": "customer",
    "credit": "charge",
    "charge": "credit",
    "replayed": "settled",
    "reserve": "settle",
    "settle": "reserve",
}
# What ends a list of conditions, or of assignments, at its own depth.
_ENDS = {
    "WHERE",
    "GROUP",
    "ORDER",
    "LIMIT",
    "RETURNING",
    "THEN",
    "LOOP",
    "FOR",
    "UNION",
    "FROM",
    "SELECT",
    "LEFT",
}
_ENDS |= {
    "JOIN",
    "ON",
    "ELSE",
    "WHEN",
    "END",
    ";",
    ",",
    "$$",
    "INTO",
    "DO",
    "SET",
    "IF",
    "ELSIF",
    ":=",
    "EXCEPT",
}
_VERBS = {"INSERT", "UPDATE", "DELETE", "SELECT", "PERFORM", "RAISE", "RETURN", "ASSERT", "WITH"}


@dataclass(frozen=True, slots=True)
class Token:
    """A word of a statement; `depth` counts the brackets around it."""

    text: str
    kind: str
    start: int
    end: int
    depth: int


def tokens(text: str, offset: int = 0) -> list[Token]:
    """The words of a statement, without its comments."""
    found, depth = [], 0
    for match in _TOKEN.finditer(text):
        kind, word = str(match.lastgroup), match.group()
        depth -= word == ")"
        if kind != "space":
            found.append(Token(word, kind, offset + match.start(), offset + match.end(), depth))
        depth += word == "("
    return found


class Statements:
    """The mistakes that can be made in one place of a file: a named statement or a function."""

    def __init__(self, path: str, text: str, place: str, start: int, end: int) -> None:
        self._path, self._text, self._place = path, text, place
        self._all = tokens(text[start:end], start)

    def mutants(self) -> Iterator[Mutant]:
        """All of them."""
        for at, token in enumerate(self._all):
            yield from self._of_a_word(at, token)
            yield from self._of_conditions(at, token)
            yield from self._of_clauses(at, token)
            yield from self._of_assignments(at, token)
            yield from self._of_steps(at, token)

    def _change(self, change: str, start: int, end: int, instead: str) -> Mutant:
        return Mutant(self._path, self._place, change, start, end, instead)

    def _swap(self, token: Token, instead: str, around: int) -> Mutant:
        first, last = self._all[max(0, around - 1)], self._all[min(len(self._all) - 1, around + 1)]
        before, after = self._text[first.start : token.start], self._text[token.end : last.end]
        change = f"{in_words(before + token.text + after)} → {in_words(before + instead + after)}"
        return self._change(change, token.start, token.end, instead)

    def _drop(self, first: Token, last: Token, *, instead: str = "", said: str | None = None) -> Mutant:
        dropped = said or in_words(self._text[first.start : last.end])
        return self._change(f"without {dropped}", first.start, last.end, instead)

    def _word(self, at: int) -> str:
        return self._all[at].text if 0 <= at < len(self._all) else ""

    def _end(self, at: int, *words: str) -> int:
        """The first place from `at` on that ends what is there: one of the words, or its bracket."""
        depth = self._all[at].depth if at < len(self._all) else 0
        for place in range(at, len(self._all)):
            token = self._all[place]
            if token.depth < depth or (token.depth == depth and token.text in words):
                return place
        return len(self._all)

    def _of_a_word(self, at: int, token: Token) -> Iterator[Mutant]:
        word = token.text
        if word in _COMPARED and not self._assigns(at):
            yield self._swap(token, _COMPARED[word], at)
        elif word in _SIGNS and token.kind == "sign":
            yield self._swap(token, _SIGNS[word], at)
        elif word == "EXISTS" and self._word(at - 1) in {"NOT", "IF"}:
            if self._word(at - 1) == "NOT":
                yield self._drop(self._all[at - 1], token, instead="EXISTS", said="NOT")
        elif word in _WORDS:
            yield self._swap(token, _WORDS[word], at)
        elif word == "IS" and self._word(at + 1) == "NOT":
            yield self._swap(self._all[at + 1], "", at + 1)
        elif word == "IS":
            yield self._swap(token, "IS NOT", at)
        elif word == "IN" and self._word(at + 1) == "(":
            yield self._swap(token, "NOT IN", at)
        elif token.kind == "number" and self._word(at - 1) not in {"LIMIT", "SELECT", "RETURNING"}:
            yield self._swap(token, str(int(word) + 1), at)
        elif token.kind == "string" and " " not in word:  # a sentence is for people
            yield self._swap(token, f"'{_NAMES.get(word[1:-1], word[1:-1] + '~')}'", at)
        elif word == "DESC":
            yield self._swap(token, "ASC", at)

    def _assigns(self, at: int) -> bool:
        """Whether a `=` gives a column of an UPDATE its value."""
        for place in range(at - 1, -1, -1):
            token = self._all[place]
            if token.depth < self._all[at].depth:
                return False
            if token.depth == self._all[at].depth and token.text in {"SET", "WHERE", "ON", "AND", "IF", ";"}:
                return token.text == "SET"
        return False

    def _of_conditions(self, at: int, token: Token) -> Iterator[Mutant]:
        """A condition's terms, each left out; a condition of one term becomes true."""
        if token.text not in {"WHERE", "ON", "IF", "ELSIF", "WHEN", ":=", "("}:
            return
        if token.text == "ON" and self._word(at + 1) == "CONFLICT":
            return
        if token.text == "IF" and self._word(at - 1) == "END":
            return
        if token.text in {"IF", "ELSIF"}:
            first, last = self._all[at + 1], self._all[self._end(at + 1, "THEN") - 1]
            condition = self._text[first.start : last.end]
            yield self._change(f"IF NOT {in_words(condition)}", first.start, last.end, f"NOT ({condition})")
        cuts = self._cuts(at + 1)
        terms = [(cuts[i] + 1, cuts[i + 1] - 1) for i in range(len(cuts) - 1)]
        if len(terms) < 2 and token.text != "WHERE":
            return
        for first_at, last_at in terms:
            # Still read, so that every parameter keeps its place.
            first, last = self._all[first_at], self._all[last_at]
            yield self._drop(first, last, instead=f"(true OR {self._text[first.start : last.end]})")

    def _cuts(self, at: int) -> list[int]:
        """Where the terms of a condition that begins at `at` are joined by AND, with both of its ends."""
        end, depth = self._end(at, *_ENDS), self._all[at].depth
        cuts, between = [at - 1], False
        for place in range(at, end):
            token = self._all[place]
            if token.depth == depth and token.text == "OR":
                return []
            between = between or (token.depth == depth and token.text == "BETWEEN")
            if token.depth == depth and token.text == "AND":
                if not between:
                    cuts.append(place)
                between = False
        return [*cuts, end]

    def _of_clauses(self, at: int, token: Token) -> Iterator[Mutant]:
        if token.text == "ON" and self._word(at + 1) == "CONFLICT":
            end = self._end(at, ";", "RETURNING") - 1
            do = self._end(at, "DO")
            if "?" in self._text[token.start : self._all[end].end]:
                return
            yield self._drop(token, self._all[end])
            if self._word(do + 1) == "UPDATE":
                yield self._drop(self._all[do], self._all[end], instead="DO NOTHING", said="DO UPDATE")
        if token.text == "FOR" and self._word(at + 1) in {"UPDATE", "NO"}:
            end = self._end(at, ";") - 1
            yield self._drop(token, self._all[end])
        if token.text == "ORDER":
            end = self._end(at, "LIMIT", ";", "FOR", "ROWS")
            if not any(one.text in {"DESC", "OVER"} for one in self._all[at:end]):
                last = self._all[self._end(at + 2, ",", "LIMIT", ";", "FOR", "ROWS") - 1]
                yield self._change(
                    f"{in_words(self._text[token.start : last.end])} DESC", last.end, last.end, " DESC"
                )
        if token.text == "LEFT" and self._word(at + 1) == "JOIN":
            yield self._drop(token, token)

    def _of_assignments(self, at: int, token: Token) -> Iterator[Mutant]:
        """The assignments of an UPDATE, each left out."""
        if token.text != "SET":
            return
        end = self._end(at, "WHERE", "FROM", "RETURNING", ";")
        commas = [p for p in range(at, end) if self._all[p].depth == token.depth and self._all[p].text == ","]
        edges = [at, *commas, end]
        for number in range(len(edges) - 1 if commas else 0):
            first, last = self._all[edges[number] + 1], self._all[edges[number + 1] - 1]
            assigned = self._text[first.start : last.end]
            if re.search(r"[?]|\$\d", assigned):  # every parameter keeps its place
                value = self._text[self._all[edges[number] + 3].start : last.end]
                same = f"{first.text} = CASE WHEN true THEN {first.text} ELSE {value} END"
                yield self._drop(first, last, instead=same)
            elif number:
                yield self._drop(self._all[edges[number]], last, said=in_words(assigned))
            else:
                yield self._drop(first, self._all[commas[0]], said=in_words(assigned))

    def _of_steps(self, at: int, token: Token) -> Iterator[Mutant]:
        """The statements of a function, each left out."""
        begins = self._word(at - 1) in {";", "BEGIN", "THEN", "ELSE", "LOOP"}
        if not begins or token.depth or not (token.text in _VERBS or self._word(at + 1) == ":="):
            return
        end = self._end(at, ";")
        if end < len(self._all):
            yield self._drop(token, self._all[end], instead="NULL;")
