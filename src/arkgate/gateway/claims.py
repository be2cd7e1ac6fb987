"""Claims: how a browser gets what it has paid for when its wallet keeps the preimage to itself.

A person scans the invoice of a 402 with a phone; the preimage never reaches the browser. The page that shows
the invoice has a claim, which nobody else was given; once the invoice is paid, macaroon and claim together
are exchanged for the account's token. A macaroon without its page's claim stays worthless without the
preimage, and a preimage, which every routing node knows, stays worthless without the macaroon.
"""

import base64
import binascii
import hmac
from typing import Final

from arkgate.core.errors import AwaitingPayment, InvalidCredential
from arkgate.core.keys import Keyring
from arkgate.gateway.admit import Admitted
from arkgate.l402.identifier import Identifier, IdentifierError
from arkgate.l402.macaroon import MacaroonError, read
from arkgate.ports import Statements

WAIT_SECONDS: Final = 2.0
"""How long a claim waits for its payment before its page asks again."""
_LABEL: Final = b"page claim"


class Claims:
    """Makes claims for pages, and honours them."""

    def __init__(self, keyring: Keyring, statements: Statements) -> None:
        self._keyring = keyring
        self._statements = statements

    def claim(self, macaroon: str) -> str:
        """The claim of a challenge's macaroon (base64), for the page that shows the challenge."""
        return self._keyring.digest(_LABEL, macaroon.encode()).hex()

    async def honour(self, macaroon: str, claim: str, *, within_seconds: float = WAIT_SECONDS) -> Admitted:
        """Whose account the challenge's payment entered; waits that long for it.

        Raises InvalidCredential for a claim that was not made for that macaroon, and AwaitingPayment.
        """
        if not hmac.compare_digest(claim.encode(), self.claim(macaroon).encode()):
            raise InvalidCredential("This claim does not belong to this macaroon.")
        try:
            identifier = Identifier.decode(read(base64.b64decode(macaroon, validate=True)).identifier)
        except (MacaroonError, IdentifierError, binascii.Error) as error:
            raise InvalidCredential("The macaroon cannot be read.") from error
        account_id = await self._statements.credited(identifier.payment_hash, within_seconds=within_seconds)
        if account_id is None:
            raise AwaitingPayment("The invoice is not paid yet. Ask again.", retry_after_seconds=1)
        return Admitted(account_id)
