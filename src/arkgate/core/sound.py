"""How long a sound lasts that stands in a question: what models charge for is its time, not its bytes."""

import base64
import struct
from typing import Final

_HEAD_CHARACTERS: Final = 128 * 1024
"""How much of the base64 is read to find out what it is."""
_WAV_BITS: Final = {1: (8, 16, 24, 32), 3: (32, 64), 6: (8,), 7: (8,)}
"""PCM, floating point, A-law and mu-law, and how many bits a sample of them has: none is compressed."""
_WAV_EXTENSIBLE: Final = 0xFFFE
_WAV_RATE_MIN: Final = 8000
"""Samples a second; with fewer, hours fit into kilobytes."""
_MP3_BYTES_A_SECOND_MIN: Final = 1000
"""Layer III has no bit rate below 8 kbit/s (ISO/IEC 13818-3): what is no frame is taken for that."""
_MPEG_1, _MPEG_2, _MPEG_2_5 = 3, 2, 0
_MP3_KBITS: Final = {
    _MPEG_1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    _MPEG_2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
}
_MP3_RATES: Final = {
    _MPEG_1: (44100, 48000, 32000, 0),
    _MPEG_2: (22050, 24000, 16000, 0),
    _MPEG_2_5: (11025, 12000, 8000, 0),
}


def sound_seconds(data: object) -> float | None:
    """How long a WAV or MP3 in base64 may last at most.

    None for what else it is: in FLAC or Opus an hour of silence is a few kilobytes.
    """
    if not isinstance(data, str):
        return None
    data = "".join((data.partition(",")[2] if data.startswith("data:") else data).split())
    try:
        head = base64.b64decode(data[:_HEAD_CHARACTERS])
        if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
            rate = _wav_bytes_a_second(head)
            return None if rate is None else len(data) * 3 / 4 / rate
        is_mp3 = head[:3] == b"ID3" or _mp3_frame(head, 0) is not None
        return _mp3_seconds(base64.b64decode(data)) if is_mp3 else None
    except ValueError:
        return None


def _wav_bytes_a_second(head: bytes) -> int | None:
    """What a second takes by the one `fmt ` chunk before the data; its own word for that is not believed."""
    at, found = 12, None
    while at + 8 <= len(head):
        name, size = struct.unpack_from("<4sI", head, at)
        if name == b"data":
            return found
        if name == b"fmt " and at + 24 <= len(head):
            if found is not None:
                return None
            kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", head, at + 8)
            if kind == _WAV_EXTENSIBLE and at + 34 <= len(head):
                kind = struct.unpack_from("<H", head, at + 32)[0]
            if bits not in _WAV_BITS.get(kind, ()) or rate < _WAV_RATE_MIN or channels < 1:
                return None
            found = channels * rate * bits // 8
        at += 8 + size + size % 2
    return None


def _mp3_seconds(data: bytes) -> float:
    """The time of its frames, one after the other; what is none may be a frame at the lowest rate."""
    at = _end_of_tag(data)
    seconds = 0.0
    while (frame := _mp3_frame(data, at)) is not None:
        size, lasts = frame
        at, seconds = at + size, seconds + lasts
    return seconds + max(0, len(data) - at) / _MP3_BYTES_A_SECOND_MIN


def _end_of_tag(data: bytes) -> int:
    """Where an ID3 tag ends (id3.org, 2.4, section 3.1); where it begins if it cannot be one."""
    if data[:3] != b"ID3" or len(data) <= 10:
        return 0
    sizes = data[6:10]
    end = 10 + (sizes[0] << 21 | sizes[1] << 14 | sizes[2] << 7 | sizes[3])
    return end if max(sizes) < 0x80 and 0xFF not in data[3:5] and end <= len(data) else 0


def _mp3_frame(data: bytes, at: int) -> tuple[int, float] | None:
    """The bytes and seconds of the frame that begins there; None where none does."""
    if at + 4 > len(data) or data[at] != 0xFF or data[at + 1] & 0xE6 != 0xE2:
        return None
    version = data[at + 1] >> 3 & 3
    if version not in _MP3_RATES:
        return None
    rate = _MP3_RATES[version][data[at + 2] >> 2 & 3]
    kbits = _MP3_KBITS[_MPEG_1 if version == _MPEG_1 else _MPEG_2][data[at + 2] >> 4]
    if not (rate and kbits):
        return None
    samples = 1152 if version == _MPEG_1 else 576
    return samples * kbits * 125 // rate + (data[at + 2] >> 1 & 1), samples / rate
