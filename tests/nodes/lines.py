"""The lines of a check-up, as its tests look at them."""

from arkgate.ports import Check, Verdict


def troubles(lines: dict[str, Check]) -> dict[str, Verdict]:
    """The lines that are not ok."""
    return {name: check.verdict for name, check in lines.items() if check.verdict is not Verdict.OK}
