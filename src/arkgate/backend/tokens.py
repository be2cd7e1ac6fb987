"""Counts tokens with a widely used vocabulary, where the backend does not say how many it had.

cl100k_base, which OpenAI's GPT-4 has and whose pattern Llama 3 and Qwen share: for other models a good guess.
It comes with the library, so that nothing is downloaded, and its time is linear in the text, also for one
that was made to be slow. It is loaded when it is first needed: 20 ms and 32 MB.
"""

import functools
import time
from collections.abc import Iterator
from typing import Final, Protocol, cast

LONG_CHARACTERS: Final = 64 * 1024
"""What is counted in pieces is longer than this, and has a thread of its own."""
PIECE_CHARACTERS: Final = 16 * 1024
"""What is counted at once of it: the library keeps every other thread waiting, for a millisecond."""
NAP_SECONDS: Final = 0.0002
"""How long a thread lets others go first between two pieces."""


class _Encoding(Protocol):
    def count(self, text: str) -> int: ...


@functools.cache
def _encoding() -> _Encoding:
    from rs_bpe.bpe import openai  # noqa: PLC0415 - its vocabulary is dear, and most gateways need none

    return cast(_Encoding, openai.cl100k_base())


def count_tokens(text: str) -> int:
    """How many tokens a text has. Never raises. A long text is for a thread of its own."""
    if not text:
        return 0
    encoding, text = _encoding(), text.encode("utf-8", "replace").decode()
    if len(text) <= LONG_CHARACTERS:
        return encoding.count(text)
    tokens = 0
    for piece in _pieces(text):
        tokens += encoding.count(piece)
        time.sleep(NAP_SECONDS)
    return tokens


def _pieces(text: str) -> Iterator[str]:
    """The text in parts, cut before a space where there is one: there a token ends anyway."""
    start = 0
    while start < len(text):
        half, end = start + PIECE_CHARACTERS // 2, start + PIECE_CHARACTERS
        space = text.rfind(" ", half, end) if end < len(text) else -1
        while space > half and text[space - 1].isspace():
            space -= 1
        if space > half:
            end = space
        yield text[start:end]
        start = end
