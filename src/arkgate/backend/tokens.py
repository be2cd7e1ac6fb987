"""Counts tokens."""


def count_tokens(text: str) -> int:
    """A stand-in."""
    return (len(text.encode()) + 3) // 4
