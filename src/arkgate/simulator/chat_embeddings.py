"""OpenAI's embeddings: vectors that depend on nothing but the text, whole or in base64."""

import base64
import hashlib
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from arkgate.simulator.chat_answers import Answer, BadWish, Wish, positive, sse
from arkgate.simulator.chat_dialects import Dialect
from arkgate.simulator.chat_tools import Json

DIMENSIONS_DEFAULT = 64
DIMENSIONS_MAX = 4096
INPUTS_MAX = 2048


@dataclass(frozen=True, slots=True)
class EmbeddingsWish(Wish):
    """What an embeddings request asks for."""

    texts: tuple[str, ...] = ()
    dimensions: int = DIMENSIONS_DEFAULT
    is_base64: bool = False


@dataclass(frozen=True, slots=True)
class Embeddings:
    """`POST /v1/embeddings`. Its usage has no completion tokens."""

    dialect: Dialect

    def read(self, body: Json) -> Wish:
        """Needs `model` and `input`: a string, token numbers, or a list of either."""
        model, asked = body.get("model"), body.get("input")
        if not isinstance(model, str) or not model:
            raise BadWish("you must provide a model parameter")
        if isinstance(asked, str) or (isinstance(asked, list) and asked and isinstance(asked[0], int)):
            asked = [asked]
        if not isinstance(asked, list) or not 0 < len(asked) <= INPUTS_MAX:
            raise BadWish(f"'input' must be a string or a list of up to {INPUTS_MAX} strings")
        dimensions = positive(body.get("dimensions")) or DIMENSIONS_DEFAULT
        if dimensions > DIMENSIONS_MAX:
            raise BadWish(f"'dimensions' must be at most {DIMENSIONS_MAX}")
        texts = tuple(" ".join(map(str, one)) if isinstance(one, list) else str(one) for one in asked)
        return EmbeddingsWish(
            model=model,
            prompt=texts[-1],
            prompt_tokens=sum(len(text.split()) for text in texts),
            texts=texts,
            dimensions=dimensions,
            is_base64=body.get("encoding_format") == "base64",
        )

    def whole(self, answer: Answer) -> Json:
        """The list of embeddings."""
        wish = answer.wish
        assert isinstance(wish, EmbeddingsWish)
        data = [
            {"object": "embedding", "index": index, "embedding": _written(text, wish)}
            for index, text in enumerate(wish.texts)
        ]
        usage = {"prompt_tokens": wish.prompt_tokens, "total_tokens": wish.prompt_tokens}
        return {"object": "list", "data": data, "model": wish.model, "usage": usage}

    def events(self, answer: Answer) -> Iterator[bytes]:
        """None: embeddings are not streamed."""
        return iter(())

    def refusal(self, status: int, sentence: str) -> Json:
        """As the dialect writes it."""
        return self.dialect.refusal(status, sentence)

    def error_event(self, sentence: str) -> bytes:
        """The error's body as an event."""
        return sse(self.dialect.refusal(500, sentence))


def vector_of(text: str, dimensions: int) -> list[float]:
    """A unit vector of 32-bit floats that is the same for the same text."""
    stream = hashlib.shake_256(text.encode(errors="replace")).digest(2 * dimensions)
    numbers = [value / 32768 for (value,) in struct.iter_unpack("<h", stream)]
    length = math.sqrt(sum(number * number for number in numbers)) or 1.0
    packed = struct.pack(f"<{dimensions}f", *(number / length for number in numbers))
    return list(struct.unpack(f"<{dimensions}f", packed))


def _written(text: str, wish: EmbeddingsWish) -> object:
    vector = vector_of(text, wish.dimensions)
    if not wish.is_base64:
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
