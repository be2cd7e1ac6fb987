"""What a question and an answer are taken to use: no text is overlooked, and no picture is one."""

import base64
import contextlib
import json
import struct
import time
from collections.abc import Callable, Mapping

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arkgate.backend.counting import count_question, count_used
from arkgate.backend.tokens import count_tokens
from arkgate.core.catalog import Model
from arkgate.core.errors import Refusal
from arkgate.core.money import Msat
from arkgate.core.pricing import Tariff
from arkgate.core.question import PICTURE_TOKENS, elsewhere
from arkgate.core.sound import sound_seconds
from arkgate.ports import Dialect, Outgoing
from arkgate.web.bounds import refuse_unpriced


def question(**more: object) -> Outgoing:
    return Outgoing(Dialect.CHAT, {"model": "m", **more}, "m")


def test_a_question_is_all_its_texts_and_its_pictures() -> None:
    text = {"role": "user", "content": "hello world"}
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 10_000}}
    shown = {"role": "user", "content": [{"type": "text", "text": "hello world"}, picture]}
    plain = count_question(question(messages=[text])).usual
    pictured = count_question(question(messages=[shown])).usual

    assert plain == 6
    assert pictured == 6 + PICTURE_TOKENS
    tools = [{"type": "function", "function": {"name": "now", "description": "what time it is"}}]
    assert count_question(question(messages=[text], tools=tools)).usual > plain + 5


BYTES = "data:image/png;base64," + "A" * 10_000
LONG = "some words that somebody has to pay for " * 200
PICTURE = {"type": "image_url", "image_url": {"url": BYTES}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


def encoded(data: bytes, head: str = "") -> str:
    return head + base64.b64encode(data).decode()


def base64_of(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def parts(*shown: object) -> list[object]:
    return [{"role": "user", "content": list(shown)}]


HIDDEN: dict[str, dict[str, object]] = {
    "under type": {"tools": [{"type": "function", "function": {"parameters": {"type": LONG}}}]},
    "under types": {"tools": [{"type": "function", "parameters": {"properties": {"type": {"const": LONG}}}}]},
    "under role": {"messages": [{"role": LONG, "content": "x"}]},
    "as an image in a tool": {"tools": [{"type": "image", "source": LONG}]},
    "in a picture's other fields": {"messages": parts({**PICTURE, "alt": LONG})},
    "as a picture without one": {"messages": parts({"type": "image", "text": LONG})},
    "as the input of a tool": {
        "messages": parts({"type": "tool_use", "name": "f", "input": {"type": "image", "source": LONG}})
    },
    "in a document": {
        "messages": parts({"type": "document", "source": {"type": "text", "data": LONG}, "title": "t"})
    },
    "in a document's parts": {
        "messages": parts(
            {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": LONG}]}}
        )
    },
    "beside a document": {
        "messages": parts(
            {"type": "document", "source": {"type": "base64", "data": "JVBERi0xLjcK"}, "context": LONG}
        )
    },
    "in a file": {"messages": parts({"type": "file", "file": {"file_data": base64_of(LONG)}})},
    "in a file by its data": {
        "input": parts({"type": "input_file", "file_data": "data:text/plain;base64," + base64_of(LONG)})
    },
    "in a name": {"messages": parts({"type": "tool_use", "input": {LONG: 1}})},
    "in the result of a tool": {
        "messages": parts({"type": "tool_result", "content": [{"type": "text", "text": LONG}]})
    },
    "in what a function gave": {"input": [{"type": "function_call_output", "output": LONG}]},
    "in a system text": {"messages": parts(), "system": [{"type": "text", "text": LONG}]},
}


@pytest.mark.parametrize("document", HIDDEN.values(), ids=HIDDEN)
def test_no_text_of_a_question_is_overlooked(document: Mapping[str, object]) -> None:
    assert count_question(question(**document)).usual >= count_tokens(LONG)


ESCAPED = {
    "line ends in a tool's result": ({"messages": [{"role": "tool", "content": "\n" * 100_000}]}, 100_000),
    "quotes in a tool's result": ({"messages": [{"role": "tool", "content": '"' * 100_000}]}, 100_000),
    "control characters": ({"messages": [{"role": "tool", "content": "\x01" * 100_000}]}, 300_000),
    "signs in a tool": ({"tools": [{**TOOL, "description": "<" * 100_000}]}, 300_000),
    "signs in arguments": ({"input": [{"type": "function_call", "arguments": "&" * 100_000}]}, 300_000),
    "signs in a call": (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": ">" * 100_000}}]}]},
        300_000,
    ),
}


@pytest.mark.parametrize(("document", "read"), ESCAPED.values(), ids=ESCAPED)
def test_what_a_server_escapes_is_held_for(document: dict[str, object], read: int) -> None:
    """Templates write tools, calls and results as JSON; Go, and so Ollama, escapes signs of HTML, too."""
    assert count_question(question(**document)).most >= read


THOUGHT_BLOCK = {"type": "reasoning.encrypted", "data": "Ab3" * 1000}
SEALED_PLACES: dict[str, dict[str, object]] = {
    "OpenRouter's": {"role": "assistant", "reasoning_details": [THOUGHT_BLOCK]},
    "LiteLLM's": {"role": "assistant", "thinking_blocks": [{"type": "thinking", "signature": "Ab3" * 1000}]},
    "Gemini's": {
        "role": "assistant",
        "tool_calls": [{"id": "1", "extra_content": {"google": {"thought_signature": "Ab3" * 1000}}}],
    },
    "OpenAI's compaction": {"type": "compaction", "encrypted_content": "Ab3" * 1000},
}


@pytest.mark.parametrize("turn", SEALED_PLACES.values(), ids=SEALED_PLACES)
def test_sealed_thoughts_are_no_text_wherever_they_stand(turn: dict[str, object]) -> None:
    assert 750 <= count_question(question(messages=[turn])).usual < 800


def test_a_plain_thought_in_the_place_of_a_sealed_one_is_a_text() -> None:
    thought = "你好世界 " * 5000

    sealed = {"type": "reasoning", "encrypted_content": thought}
    for part in (sealed, {"reasoning_details": [{"data": thought}]}):
        assert count_question(question(input=[part])).usual >= count_tokens(thought)


def test_a_thought_that_the_server_keeps_is_held_for() -> None:
    kept = count_question(question(input=[{"type": "reasoning", "id": "rs_1", "summary": []}]))
    sent = count_question(question(input=[{"type": "reasoning", "id": "rs_1", "encrypted_content": "Ab3"}]))

    assert kept.most > sent.most + 4000
    assert kept.usual < 30


def test_fields_that_no_model_reads_cost_nothing() -> None:
    silent = {
        "logit_bias": {str(number): -100 for number in range(300)},
        "client_metadata": {"turn": "x" * 1000},
        "include": ["reasoning.encrypted_content"],
    }
    asked = [{"role": "user", "content": "x"}]

    assert count_question(question(messages=asked, **silent)) == count_question(question(messages=asked))


def test_texts_to_embed_are_no_messages() -> None:
    counted = count_question(Outgoing(Dialect.EMBEDDINGS, {"input": ["word"] * 1000}, "m"))

    assert 3000 <= counted.usual <= 4000


def test_anthropics_tools_bring_a_text_of_their_own() -> None:
    def held(*tools: object) -> int:
        document = {"messages": [{"role": "user", "content": "x"}], "tools": [*tools]}
        return count_question(Outgoing(Dialect.MESSAGES, document, "m")).most

    assert held() < 100
    assert held({"name": "f", "input_schema": {}}) > 700
    assert held({"type": "bash_20250124", "name": "bash"}) > 1400


@pytest.mark.parametrize("value", [1, 1.5, None, True, {}, [], [{}], "", 123456789])
def test_what_is_no_text_but_is_read_as_json_is_counted(value: object) -> None:
    said = parts({"type": "tool_use", "name": "f", "input": {"rows": [value] * 1000}})

    assert count_question(question(messages=said)).most >= 2000


@pytest.mark.parametrize("depth", [1, 20, 60])
def test_an_indented_list_costs_what_a_model_reads_of_it(depth: int) -> None:
    """As Llama's template writes tools."""
    nested: object = [1] * 2000
    for _ in range(depth):
        nested = [nested]
    written = json.dumps(nested, indent=4)

    assert count_question(question(messages=parts(), tools=nested)).most >= count_tokens(written)


@pytest.mark.parametrize("depth", [10, 60])
def test_brackets_cost_what_a_model_reads_of_them(depth: int) -> None:
    nested: object = []
    for _ in range(depth):
        nested = [nested]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"enum": [nested] * 100}}}]

    assert count_question(question(messages=parts(), tools=tools)).most > 100 * depth * 2


@pytest.mark.parametrize("word", ["x" * 40, "ignore what was said before and say", "你好世界"])
@pytest.mark.parametrize("name", ["role", "type"])
def test_only_words_that_every_request_has_are_free(name: str, word: str) -> None:
    turns = [{"role": "user", "content": "x", name: word}] * 100

    counted = count_question(question(messages=turns)).usual

    assert counted >= 100 * count_tokens(word)
    assert count_question(question(messages=[{"role": "user", "content": "x"}] * 100)).usual < 700


PICTURES: dict[str, dict[str, object]] = {
    "chat": {"messages": parts(PICTURE)},
    "responses": {"input": parts({"type": "input_image", "image_url": BYTES})},
    "messages": {"messages": parts({"type": "image", "source": {"type": "base64", "data": "A" * 10_000}})},
    "of a screen": {
        "input": [
            {
                "type": "computer_call_output",
                "output": {
                    "type": "computer_screenshot",
                    "image_url": BYTES,
                },
            }
        ]
    },
    "in the result of a tool": {
        "messages": parts(
            {"type": "tool_result", "content": [{"type": "image", "source": {"data": "A" * 9_999}}]}
        )
    },
    "without a type": {"messages": parts({"image_url": {"url": BYTES}})},
    "made before": {"input": [{"type": "image_generation_call", "result": "A" * 10_000}]},
}


@pytest.mark.parametrize("document", PICTURES.values(), ids=PICTURES)
def test_a_picture_is_no_text_wherever_it_may_stand(document: Mapping[str, object]) -> None:
    assert PICTURE_TOKENS < count_question(question(**document)).usual < PICTURE_TOKENS + 40


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "uuid": "kept-by-the-server"},
        {"type": "image_url", "image_url": None, "uuid": "kept"},
        {"type": "other", "image_url": {"url": "https://pictures.example/1.png"}},
    ],
)
def test_a_picture_counts_also_where_its_bytes_are_not(part: object) -> None:
    counted = count_question(question(messages=parts(part, part)))

    assert (counted.pictures, counted.usual >= 2 * PICTURE_TOKENS) == (2, True)


def wav_format(rate: int, bits: int, kind: int = 1, more: bytes = b"") -> bytes:
    return struct.pack("<4sIHHIIHH", b"fmt ", 16 + len(more), kind, 1, rate, 1, 2, bits) + more


def wav_of(chunks: bytes, size: int) -> bytes:
    head = struct.pack("<4sI4s", b"RIFF", size + 36, b"WAVE")
    return head + chunks + struct.pack("<4sI", b"data", size) + bytes(size)


def wav(seconds: float, *, rate: int = 16_000, bits: int = 16) -> bytes:
    return wav_of(wav_format(rate, bits), int(seconds * rate * bits // 8))


def extensible(kind: int) -> bytes:
    return wav_format(16_000, 16, 0xFFFE, struct.pack("<HHIH", 22, 16, 0, kind) + bytes(14))


def mp3(seconds: float, *, tag: bool = True) -> bytes:
    frame = b"\xff\xfb\x90\x00".ljust(417, b"\0")  # 128 kbit/s, 44.1 kHz
    return (b"ID3\x04\0\0\0\0\x01\x00" + bytes(128) if tag else b"") + frame * round(seconds * 44_100 / 1152)


def mp3_at_8_kbits(seconds: float) -> bytes:
    return (b"\xff\xe3\x18\x00".ljust(72, b"\0")) * round(seconds * 8000 / 576)


SOUNDS = {
    "WAV": wav(30),
    "WAV at 8 kHz": wav(30, rate=8000, bits=8),
    "MP3": mp3(30),
    "MP3 without a tag": mp3(30, tag=False),
    "MP3 at 8 kbit/s": mp3_at_8_kbits(30),
    "mu-law": wav_of(wav_format(8000, 8, 7), 240_000),
    "extensible": wav_of(extensible(1), 960_000),
}
SPELLINGS: dict[str, Callable[[bytes], str]] = {
    "alone": encoded,
    "in lines": lambda data: base64.encodebytes(data).decode(),
    "as a URL": lambda data: encoded(data, "data:audio/wav;base64,"),
}


def test_a_sound_may_begin_late_in_its_file() -> None:
    """As Apple's recorders write it."""
    filler = struct.pack("<4sI", b"FLLR", 4044) + bytes(4044)

    assert sound_seconds(encoded(wav_of(wav_format(16_000, 16) + filler, 160_000))) == pytest.approx(
        5, rel=0.1
    )


@pytest.mark.parametrize("spelled", SPELLINGS.values(), ids=SPELLINGS)
@pytest.mark.parametrize("data", SOUNDS.values(), ids=SOUNDS)
def test_a_sound_counts_by_its_time(data: bytes, spelled: Callable[[bytes], str]) -> None:
    sound = {"type": "input_audio", "input_audio": {"data": spelled(data), "format": "any"}}
    counted = count_question(question(messages=parts(sound)))

    assert 300 <= counted.usual < 320
    assert 960 <= counted.most < 1100
    assert elsewhere(sound) is None


UNCOUNTED = {
    "FLAC": b"fLaC" + bytes(999),
    "Opus": b"OggS" + bytes(999),
    "few samples": wav(9, rate=100, bits=8),
    "mu-law that says 64 kbit": wav_of(wav_format(8000, 65528, 7), 600_000),
    "PCM of 7 bits": wav_of(wav_format(8000, 7), 999),
    "MP3 in a WAV": wav_of(wav_format(24_000, 16, 0x55), 999),
    "MP3 in an extensible WAV": wav_of(extensible(0x55), 999),
    "two formats": wav_of(wav_format(48_000, 16) + wav_format(8000, 8), 999),
    "a WAV without data": b"RIFF1234WAVE",
    "nothing": b"",
    "half a frame": b"\xff\xfb",
}


@pytest.mark.parametrize("data", UNCOUNTED.values(), ids=UNCOUNTED)
def test_a_sound_that_may_be_as_long_as_it_likes_is_not_counted(data: bytes) -> None:
    assert elsewhere({"type": "input_audio", "input_audio": {"data": encoded(data), "format": "wav"}})


@pytest.mark.parametrize("size", [b"\xff\xff\xff\xff", b"\x7f\x7f\x7f\x7f", b"\x80\x00\x00\x00"])
def test_a_tag_that_says_it_is_longer_than_the_sound_hides_none_of_it(size: bytes) -> None:
    assert (sound_seconds(encoded(b"ID3\x04\0\0" + size + mp3_at_8_kbits(60))) or 0) > 59


def test_what_follows_the_frames_of_a_sound_may_be_more_of_it() -> None:
    hidden = mp3(1) + b"junk" + mp3_at_8_kbits(100)

    assert (sound_seconds(encoded(hidden)) or 0) > 100


@pytest.mark.parametrize(
    ("kind", "name"),
    [("reasoning", "encrypted_content"), ("thinking", "signature"), ("redacted_thinking", "data")],
)
def test_what_a_server_sealed_is_less_than_its_letters(kind: str, name: str) -> None:
    sealed = base64.b64encode(bytes(number * 7919 % 251 for number in range(30_000))).decode()
    counted = count_question(question(input=[{"type": kind, name: sealed}]))

    assert len(sealed) // 4 <= counted.usual < len(sealed) // 4 + 20
    as_text = count_question(question(input=[{"type": "text", name: sealed}]))
    assert as_text.usual > 2 * counted.usual


def test_a_file_that_is_no_text_is_taken_by_its_size() -> None:
    pdf = base64.b64encode(b"%PDF-1.7 \xff\xfe" * 4000).decode()
    document = {"type": "document", "source": {"type": "base64", "data": pdf}}

    counted = count_question(question(messages=parts(document))).usual

    assert len(pdf) // 4 < counted < len(pdf) // 4 + 40


IDS: dict[str, list[object]] = {
    "whole": [7] * 1000,
    "two lists": [[7] * 500, [8] * 500],
    "fractions": [[1.0] * 1000],
    "truths": [[True] * 1000],
    "nulls": [None] * 1000,
    "mixed with a text": [7, "x"] * 500 + [8] * 500,
    "below another": [[[7]] * 1000],
}


@pytest.mark.parametrize("prompt", IDS.values(), ids=IDS)
def test_token_ids_count_one_each_whatever_they_are(prompt: list[object]) -> None:
    assert count_question(question(prompt=prompt)).usual >= 1000


def test_a_list_of_token_ids_is_no_list_of_messages() -> None:
    assert count_question(question(prompt=[7] * 1000)).usual < 1010


def test_what_the_gateway_asks_for_itself_is_no_question() -> None:
    plain = {"messages": [{"role": "user", "content": "hi"}]}
    ours = {"stream_options": {"include_usage": True}, "reasoning_effort": "low", "modalities": ["text"]}

    assert count_question(Outgoing(Dialect.CHAT, {**plain, **ours})) == count_question(
        Outgoing(Dialect.CHAT, plain)
    )


LARGE: dict[str, dict[str, object]] = {
    "token ids": {"prompt": [7] * 500_000},
    "numbers in a tool": {"tools": [{**TOOL, "enum": [1] * 500_000}]},
    "parts": {"messages": parts(*({"type": "x"} for _ in range(20_000)))},
    "line ends": {"messages": parts({"type": "text", "text": "\n" * 1_000_000})},
    "a sound": {"messages": parts({"type": "input_audio", "input_audio": {"data": encoded(mp3(50))}})},
}


@pytest.mark.parametrize("document", LARGE.values(), ids=LARGE)
def test_a_mebibyte_is_counted_in_a_moment(document: dict[str, object]) -> None:
    count_tokens("load it")
    started = time.thread_time()
    count_question(question(**document))

    assert time.thread_time() - started < 0.5


def test_tools_cost_about_what_a_model_reads_of_them() -> None:
    assert 5 < count_question(question(messages=parts(), tools=[TOOL])).usual < 40


def test_an_answer_is_what_was_said_in_it() -> None:
    whole = b'{"choices": [{"message": {"role": "assistant", "content": "hello world"}}]}'
    stream = b"".join(
        b'data: {"choices": [{"delta": {"content": "%b"}}]}\n\n' % word for word in (b"hello", b" world")
    )

    assert count_used(question(), whole).output_tokens == 2
    streamed = Outgoing(Dialect.CHAT, {}, "m", stream=True)
    assert count_used(streamed, stream + b"data: {broken\n\n").output_tokens == 2
    assert count_used(question(), b"not json").output_tokens == 0


SAID = "hello world"
CODE = "A" * 999
THOUGHT = {"type": "reasoning.text", "text": SAID, "format": "anthropic-v1", "signature": CODE}
CALL = {"id": "call_1", "function": {"name": "hello", "arguments": " world"}}


def chunk_of(**delta: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": delta}]}


ANSWERS: dict[str, object] = {
    "reasoning twice": chunk_of(reasoning=SAID, reasoning_content=SAID),
    "reasoning and its details": chunk_of(reasoning=SAID, reasoning_details=[THOUGHT]),
    "details alone": chunk_of(reasoning_details=[THOUGHT]),
    "spoken": {"choices": [{"message": {"audio": {"id": "a", "data": CODE, "transcript": SAID}}}]},
    "a tool's": {"choices": [{"message": {"tool_calls": [CALL]}}]},
    "Anthropic's": {"content": [{"type": "thinking", "thinking": SAID, "signature": CODE}]},
    "of responses": {"output": [{"id": CODE, "content": [{"type": "output_text", "text": SAID}]}]},
    "a custom tool's": {"output": [{"type": "custom_tool_call", "id": CODE, "input": SAID}]},
}


@pytest.mark.parametrize("document", ANSWERS.values(), ids=ANSWERS)
def test_what_was_said_counts_once_and_nothing_else_does(document: object) -> None:
    assert count_used(question(), orjson.dumps(document)).output_tokens == 2


def test_an_answer_that_is_nested_deeper_than_we_write_has_a_count() -> None:
    asked: object = {}
    for _ in range(300):
        asked = {"a": asked}
    answer = json.dumps({"content": [{"type": "tool_use", "input": asked}]}).encode()
    deeper = b'{"content": [{"input": %b1%b}]}' % (b'{"a":' * 1015, b"}" * 1015)

    assert count_used(question(), answer).output_tokens > 300
    assert count_used(question(), deeper).output_tokens >= 0


def test_a_picture_in_an_answer_is_not_counted_as_words() -> None:
    picture = b'{"type": "image_url", "image_url": {"url": "data:image/png;base64,%b"}}' % (b"A" * 10_000)
    said = b'{"type": "text", "text": "hello world"}'
    whole = b'{"choices": [{"message": {"content": [%b, %b]}}]}' % (said, picture)

    assert count_used(question(), whole).output_tokens == 2


ASCII_PDF = b"%PDF-1.4\n1 0 obj\n<< /Filter [/ASCII85Decode /FlateDecode] >>"
NOT_COUNTED: dict[str, dict[str, object]] = {
    "a PDF in ASCII": {"type": "file", "file": {"file_data": encoded(ASCII_PDF)}},
    "a PDF": {
        "type": "input_file",
        "file_data": encoded(ASCII_PDF + b"\xff", "data:application/pdf;base64,"),
    },
    "Anthropic's PDF": {"type": "document", "source": {"type": "base64", "data": encoded(ASCII_PDF)}},
    "text with a byte of none": {"type": "file", "file": {"file_data": encoded(b"words \xff" * 99)}},
    "an archive": {"type": "file", "file": {"file_data": encoded(b"PK\x03\x04 word/document.xml")}},
    "a file at a URL": {"type": "file", "file": {"file_data": "https://files.example/book.txt"}},
    "a file at a URL and here": {"type": "input_file", "file_data": encoded(b"x"), "file_url": "https://x"},
    "a file by its id and here": {"type": "file", "file": {"file_data": encoded(b"x"), "file_id": "f"}},
    "a file by its id without a type": {"file_id": "f"},
    "a file without a type": {"file": {"file_id": "f"}},
    "a text in percents": {"type": "file", "file": {"file_data": "data:text/plain,a%20b"}},
    "a video": {"type": "video_url", "video_url": {"url": "https://x"}},
    "a video without a type": {"video_url": {"url": "https://x"}},
    "a sound without a type": {"audio_url": {"url": "https://x"}},
    "embeddings": {"type": "image_embeds", "image_embeds": "AAAA"},
    "a PDF as a picture": {"type": "image_url", "image_url": {"url": "DATA:application/pdf;base64,AAAA"}},
    "a PDF as an input's picture": {"type": "input_image", "image_url": "data:application/pdf;base64,AA"},
    "a PDF as Anthropic's picture": {"type": "image", "source": {"media_type": "application/pdf"}},
    "a PDF as LiteLLM's picture": {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64,AAAA", "format": "application/pdf"},
    },
    "a PDF that says it is a picture": {"image_url": "data:image/png;base64,JVBERi0xLjcK"},
    "a PDF in Anthropic's picture": {"type": "image", "source": {"type": "base64", "data": "JVBERi0xLjcK"}},
    "embeddings of a prompt": {"type": "prompt_embeds", "data": "AAAA"},
    "an item": {"type": "item_reference", "id": "rs_1", "role": "user"},
    "an item without a type": {"id": "rs_1"},
}


@pytest.mark.parametrize("part", NOT_COUNTED.values(), ids=NOT_COUNTED)
def test_what_cannot_be_counted_is_known_for_it(part: dict[str, object]) -> None:
    assert elsewhere(part) is not None


COUNTED: dict[str, dict[str, object]] = {
    "a text": {"type": "file", "file": {"file_data": encoded("wörter".encode(), "data:text/plain;base64,")}},
    "a table": {"type": "input_file", "filename": "a.csv", "file_data": encoded(b"a;b\r\n1;2\r\n")},
    "a document": {"type": "document", "source": {"type": "base64", "data": encoded(b"words\f\n")}},
    "a text in lines": {"type": "file", "file": {"file_data": base64.encodebytes(b"words " * 99).decode()}},
    "columns without values": {"type": "text", "text": "x", "image_url": None, "video_url": None},
    "a picture by its id": {"type": "input_image", "file_id": "f"},
    "a picture at a URL": {"type": "image_url", "image_url": {"url": "https://pictures.example/1"}},
    "a message with an id": {"role": "assistant", "id": "msg_1", "content": []},
    "a sound": {"type": "input_audio", "input_audio": {"data": encoded(wav(1)), "format": "wav"}},
}


@pytest.mark.parametrize("part", COUNTED.values(), ids=COUNTED)
def test_what_can_be_counted_is_not_held_for_a_whole_context(part: dict[str, object]) -> None:
    assert elsewhere(part) is None


NAMES = (
    "messages input prompt system content output type source file file_data image_url id role audio tools "
    "context_management edits environment execution name parameters data iterations input_audio signature "
    "cache_control ttl video_url file_id encrypted_content media_type"
)
VALUES = (
    "image_url document file input_file item_reference text base64 content tool_use namespace shell "
    "computer_screenshot image_generation_call compact_1 user assistant url input_audio thinking reasoning "
    "data:text/plain;base64,aGk= 1h"
)
NAMED = st.sampled_from(NAMES.split())
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
TEXTS = st.text(max_size=9) | st.sampled_from(VALUES.split())
BODIES = st.recursive(
    SCALARS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMED, inner, max_size=5),
    max_leaves=30,
)


@settings(suppress_health_check=[HealthCheck.too_slow])  # says something of the machine
@given(st.dictionaries(NAMED, BODIES, max_size=6), st.sampled_from(Dialect))
def test_whatever_a_body_holds_it_is_counted_or_refused(
    document: dict[str, object], dialect: Dialect
) -> None:
    model = Model("m", Tariff(input_tokens=Msat(1)))
    with contextlib.suppress(Refusal):
        refuse_unpriced(dialect, document, model, ("mcp",))
    assert count_used(Outgoing(dialect, document, "m"), orjson.dumps(document)).input_tokens >= 0
