"""The doctor: everything that a paid call needs, tried in the order in which it would fail.

What each line looks at is its room's: the store looks at the books, a node at itself, the web at the public
URL. Which of them there are, what is asked of a node, and what the settings promise is decided here.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass

from arkgate.core.catalog import Catalog
from arkgate.core.errors import Refusal
from arkgate.core.money import Msat, format_sats
from arkgate.core.pricing import bundle_for
from arkgate.gateway.challenge import ChallengeTerms
from arkgate.gateway.sessions import SessionTerms
from arkgate.ports import Backend, ChatMessage, Check, Demands, PaymentNode, Verdict

Checks = Callable[[], AsyncIterator[Check]]
QUESTION = "Answer with one word: are you there?"
CALL_ID = "arkgate-doctor"
REFUNDED = "Calls fail and are refunded: payers get 502 or 503 instead of an answer."
WORST_FIRST = (Verdict.FAILURE, Verdict.WARNING)


@dataclass(frozen=True, slots=True)
class Line:
    """A check, and what it is a check of."""

    subject: str
    check: Check


@dataclass(frozen=True, slots=True)
class Offer:
    """What the operator sells, and for how much at once."""

    catalog: Catalog
    challenge: ChallengeTerms
    sessions: SessionTerms


@dataclass(frozen=True, slots=True)
class NodeDuty:
    """What a node is there for."""

    invoices: bool = True
    """Challenges, sessions and top-ups over Lightning."""
    addresses: bool = False
    """Sessions and top-ups over Ark."""

    @property
    def sentence(self) -> str:
        """What it serves, for an operator."""
        if not self.invoices:
            return "serves sessions only, over Ark; it makes no invoices for challenges"
        if not self.addresses:
            return "serves challenges and sessions, over Lightning"
        return "serves challenges and sessions over Lightning, and sessions over Ark"


class Doctor:
    """Examines one gateway from its settings. Changes no money; what it leaves is `PaymentNode.checkup`'s."""

    def __init__(
        self,
        offer: Offer,
        nodes: Sequence[PaymentNode],
        backends: Mapping[str, Backend],
        *,
        talkers: frozenset[str],
        duties: Mapping[str, NodeDuty],
        warnings: Sequence[str],
        books: Checks,
        outside: Checks,
    ) -> None:
        """`backends` by their names; `talkers` are those that chat. `duties` are the nodes', by their names.

        `warnings` are what the settings say of themselves.

        `books` and `outside` are their rooms'.
        """
        self._offer = offer
        self._nodes = nodes
        self._backends = backends
        self._talkers = talkers
        self._duties = duties
        self._warnings = warnings
        self._books = books
        self._outside = outside

    async def examine(self, *, call: bool) -> AsyncIterator[Line]:
        """Every line, as soon as it is known. `call` lets the backend answer once, which may cost money."""
        subjects: list[tuple[str, Checks]] = [
            ("settings", self._settings),
            ("books", self._books),
            *((self._subject(name), self._of_backend(name, call=call)) for name in self._backends),
            *((f"node {node.name}", self._of(node)) for node in self._nodes),
            ("public URL", self._outside),
        ]
        for subject, checks in subjects:
            try:
                async for check in checks():
                    yield Line(subject, check)
            except Exception as error:  # noqa: BLE001 - a doctor that dies of one patient tells nothing of the rest
                seen = f"The check itself broke off: {type(error).__name__}: {error}."
                remedy = "This is a fault of arkgate; report it with this sentence."
                yield Line(subject, Check("this check", Verdict.FAILURE, seen, remedy=remedy))

    async def _settings(self) -> AsyncIterator[Check]:
        for warning in self._warnings:
            yield Check("settings", Verdict.WARNING, warning)
        if not self._warnings:
            yield Check("settings", Verdict.OK, "They can be used.")

    def _subject(self, name: str) -> str:
        return "backend" if len(self._backends) == 1 else f"backend {name}"

    def _of_backend(self, name: str, *, call: bool) -> Checks:
        return lambda: self._answers(self._backends[name], call=call, talks=name in self._talkers)

    async def _answers(self, backend: Backend, *, call: bool, talks: bool) -> AsyncIterator[Check]:
        health = await backend.health()
        if not health.ready:
            refused = health.state == "refused"
            remedy = "Check api_key in [backend]." if refused else "Start it, or correct url in [backend]."
            yield Check("answers", Verdict.FAILURE, health.sentence, REFUNDED, remedy)
            yield Check("a call", Verdict.NOT_CHECKED, "It needs the line above.")
            return
        if health.state == "unlisted":
            meaning = (
                "If it is asked at the wrong place or for a model it lacks, calls fail and are refunded."
            )
            remedy = (
                "Correct url, which usually ends in /v1, or model in [backend], or see with --call whether "
                "it answers all the same."
            )
            yield Check("answers", Verdict.WARNING, health.sentence, meaning, remedy)
        else:
            yield Check("answers", Verdict.OK, health.sentence)
        if talks:
            yield await self._called(backend) if call else _uncalled()

    async def _called(self, backend: Backend) -> Check:
        try:
            answer = await backend.chat([ChatMessage("user", QUESTION)], call_id=CALL_ID)
        except Refusal as refusal:
            remedy = "Look at the backend's log; check model, api_key and the timeouts in [backend]."
            return Check("a call", Verdict.FAILURE, refusal.message, REFUNDED, remedy)
        return Check(
            "a call", Verdict.OK, f"{answer.model} answered, with {answer.total_tokens} tokens in all."
        )

    def _of(self, node: PaymentNode) -> Checks:
        async def checks() -> AsyncIterator[Check]:
            yield self._amounts(node) if self._duties[node.name].invoices else self._sessions_alone(node)
            async for check in node.checkup(self._demands(node)):
                yield check

        return checks

    def _challenges(self, node: PaymentNode) -> list[Msat]:
        """What a challenge of each service asks for at that node, the smallest first."""
        calls = self._offer.challenge.calls
        bundles = [
            bundle_for(service.quote(), calls=calls, minimum=node.invoice_minimum)
            for service in self._offer.catalog
        ]
        return sorted(bundle.amount for bundle in bundles)

    def _sessions(self, node: PaymentNode) -> tuple[Msat, Msat]:
        """The smallest and the largest session that the node serves; none when the first is above."""
        terms = self._offer.sessions
        return max(terms.minimum, node.invoice_minimum), min(terms.maximum, node.invoice_maximum)

    def _demands(self, node: PaymentNode) -> Demands:
        duty = self._duties[node.name]
        fitting = [amount for amount in self._challenges(node) if amount <= node.invoice_maximum]
        least, most = self._sessions(node)
        wanted = [*fitting, most]
        return Demands(
            challenge=wanted[0],
            largest=max(wanted),
            smallest=least,
            invoices=duty.invoices,
            addresses=duty.addresses,
        )

    def _amounts(self, node: PaymentNode) -> Check:
        """Whether the prices, the sessions and the node's limits leave it something to make."""
        name = "amounts"
        challenge = self._challenges(node)[-1]
        least, most = self._sessions(node)
        limits = "minimum_sats and maximum_sats in [sessions] and [[nodes]]"
        if least > most:
            seen = f"Sessions would be of at least {format_sats(least)} and of at most {format_sats(most)}."
            verdict = self._severe(lambda other: self._sessions(other)[0] <= self._sessions(other)[1])
            return Check(name, verdict, seen, "Here no session can be opened.", f"Correct {limits}.")
        if challenge > node.invoice_maximum:
            seen = f"A challenge asks for {format_sats(challenge)}, above the node's maximum_sats."
            verdict = self._severe(lambda other: self._challenges(other)[-1] <= other.invoice_maximum)
            meaning = "Here no challenge can be made for it: without another node payers get 503."
            remedy = "Lower price_sats or challenge_calls, or raise maximum_sats in [[nodes]]."
            return Check(name, verdict, seen, meaning, remedy)
        price = min(service.price for service in self._offer.catalog)
        if most < price:
            seen = f"The largest session is {format_sats(most)}, and a call costs {format_sats(price)}."
            meaning = "A token buys nothing before it is topped up."
            return Check(name, Verdict.WARNING, seen, meaning, f"Raise {limits}, or lower price_sats.")
        seen = f"Challenges ask for {format_sats(challenge)}, sessions for {format_sats(least)} to "
        return Check(name, Verdict.OK, f"{seen}{format_sats(most)}.")

    def _sessions_alone(self, node: PaymentNode) -> Check:
        """What a node that makes no invoices is there for."""
        name = "amounts"
        seen = "It gives out Ark addresses and makes no invoices: it serves sessions and no challenges."
        if any(self._duties[other.name].invoices for other in self._nodes):
            return Check(name, Verdict.OK, seen)
        meaning = "L402 clients cannot pay: without a funded token a call answers 402 without an invoice."
        remedy = "Add a node that makes Lightning invoices, or set lightning = true in [[nodes]]."
        return Check(name, Verdict.WARNING, seen, meaning, remedy)

    def _severe(self, can: Callable[[PaymentNode], bool]) -> Verdict:
        """How bad it is that one node cannot: no failure while another can."""
        return Verdict.WARNING if any(can(node) for node in self._nodes) else Verdict.FAILURE


def _uncalled() -> Check:
    seen = "Listing models does not show that it answers."
    remedy = "`arkgate doctor --call` lets it answer once, which may cost you money."
    return Check("a call", Verdict.NOT_CHECKED, seen, remedy=remedy)


def worst(lines: Sequence[Line]) -> Verdict:
    """FAILURE, WARNING or OK: what a script goes by. What was not checked counts as well."""
    found = {line.check.verdict for line in lines}
    return next((verdict for verdict in WORST_FIRST if verdict in found), Verdict.OK)
