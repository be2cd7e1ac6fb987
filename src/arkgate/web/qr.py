"""QR codes as SVG, that wallets read from a screen."""

import io
from functools import lru_cache
from typing import Final

import segno

QUIET_ZONE: Final = 4
"""Modules of white around the code, as the standard asks."""


@lru_cache(maxsize=256)
def qr_svg(text: str, label: str) -> str:
    """The code of a text, black on white whatever the page's colours, with a label for screen readers.

    Takes some milliseconds: not for the event loop. Level M: a wallet still reads it from a dirty screen.
    """
    out = io.BytesIO()
    segno.make(text, error="m", boost_error=False, micro=False).save(
        out,
        kind="svg",
        border=QUIET_ZONE,
        dark="#000",
        light="#fff",
        xmldecl=False,
        svgns=True,
        omitsize=True,
        svgclass="qr",
        lineclass=None,
        title=label,
    )
    return out.getvalue().decode().replace("<svg ", '<svg role="img" ', 1)


def lightning_code(payment_request: str) -> str:
    """What a QR of an invoice says: in capitals, which need a third fewer modules."""
    return f"LIGHTNING:{payment_request.upper()}"
