"""Money comes in once, whoever reports it."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from arkgate.core.keys import Purpose, PurposeKind
from arkgate.core.ledger import (
    INCOME_ACCOUNT,
    Balance,
    Cursor,
    Funded,
    FundOutcome,
    InvoiceState,
    ReserveOutcome,
    SessionRecord,
    node_account,
)
from arkgate.core.money import SATS_MAX, Msat, sats
from arkgate.store import Store
from arkgate.store.clock import DAY_MS
from arkgate.store.sqlite.opening import SqliteStore, open_sqlite
from tests.store.books import (
    ALICE,
    BOB,
    NODE,
    NOON,
    PRICE,
    ManualClock,
    call,
    for_challenge,
    hash_of,
    in_books,
    in_sqlite,
    invoice,
    invoice_of,
    pay,
    run,
    session,
    settlement,
)


@in_books
async def test_a_payment_hash_funds_once_under_64_concurrent_reports(
    store: Store, clock: ManualClock
) -> None:
    reports = [store.ledger.fund(settlement(hash_of("p")), for_challenge(ALICE)) for _ in range(64)]

    funded = await asyncio.gather(*reports)

    outcomes = [answer.outcome for answer in funded]
    assert outcomes.count(FundOutcome.APPLIED) == 1
    assert outcomes.count(FundOutcome.REPLAYED) == 63
    assert {answer.balance for answer in funded} == {Balance(PRICE, Msat(0))}


@in_books
async def test_a_payment_opens_the_account_it_is_for(store: Store, clock: ManualClock) -> None:
    before = await store.statements.account(ALICE)
    funded = await store.ledger.fund(settlement(hash_of("p")), for_challenge(ALICE))

    account = await store.statements.account(ALICE)
    assert before is None
    assert funded == Funded(FundOutcome.APPLIED, ALICE, Balance(PRICE, Msat(0)))
    assert account is not None
    assert account.funded
    assert account.token_key_version is None
    assert await store.statements.account_by_payment(hash_of("p")) == ALICE


@in_books
async def test_a_payment_of_no_known_purpose_credits_nothing_and_advances_the_cursor(
    store: Store, clock: ManualClock
) -> None:
    await pay(store, PRICE, BOB)
    funded = await store.ledger.fund(settlement(hash_of("x"), 0), None, cursor=Cursor(7, 5))

    assert funded == Funded(FundOutcome.FOREIGN, None, None)
    assert await store.statements.cursor(NODE) == Cursor(7, 5)
    assert await store.statements.account_by_payment(hash_of("x")) is None


@in_books
async def test_a_cursor_never_goes_back(store: Store, clock: ManualClock) -> None:
    await pay(store, PRICE, cursor=Cursor(10, 9))

    await store.ledger.advance(NODE, Cursor(3, 20))
    await pay(store, PRICE, cursor=Cursor(1, 1))

    assert await store.statements.cursor(NODE) == Cursor(10, 20)
    await store.ledger.advance(NODE, Cursor(11, 2))
    assert await store.statements.cursor(NODE) == Cursor(11, 20)
    await store.ledger.advance("another node", Cursor(1, 1))
    assert await store.statements.cursor(NODE) == Cursor(11, 20)
    assert await store.statements.cursor("another") == Cursor(0, 0)


@in_books
async def test_our_own_invoice_outranks_the_tag(store: Store, clock: ManualClock) -> None:
    await store.ledger.open_session(session("s"), token_digest=b"d" * 32, key_version=1)

    funded = await store.ledger.fund(settlement(hash_of("s")), for_challenge(BOB))

    assert funded.account_id == ALICE
    assert await store.statements.account(BOB) is None


@in_books
async def test_a_second_report_of_another_amount_credits_nothing(store: Store, clock: ManualClock) -> None:
    await store.ledger.open_session(session("s"), token_digest=b"d" * 32, key_version=1)
    await store.ledger.fund(settlement(hash_of("s"), 60_000), None)

    again = await store.ledger.fund(settlement(hash_of("s"), 90_000), for_challenge(BOB))

    found = await store.statements.session("s")
    assert again == Funded(FundOutcome.REPLAYED, ALICE, Balance(Msat(60_000), Msat(0)))
    assert found is not None
    assert (invoice_of(found).state, invoice_of(found).amount_paid) == (InvoiceState.SETTLED, 60_000)


@in_books
async def test_a_cancelled_or_expired_invoice_still_credits_what_the_node_reports(
    store: Store, clock: ManualClock
) -> None:
    await pay(store, PRICE)
    for word, state in (("e", InvoiceState.EXPIRED), ("c", InvoiceState.CANCELLED)):
        await store.ledger.add_invoice(invoice(hash_of(word)))
        await store.ledger.mark_invoice(hash_of(word), state)

    late = [await store.ledger.fund(settlement(hash_of(word)), None) for word in "ec"]

    assert [funded.outcome for funded in late] == [FundOutcome.APPLIED, FundOutcome.APPLIED]
    for word, state in (("e", InvoiceState.EXPIRED), ("c", InvoiceState.CANCELLED)):
        await store.ledger.mark_invoice(hash_of(word), state)
        assert await store.statements.account_by_payment(hash_of(word)) == ALICE
    assert await store.statements.invoices_awaited(NODE, after=b"", limit=9) == []


@pytest.mark.parametrize("amount", [0, -1, 2**62])
def test_an_amount_that_cannot_be_is_not_credited(tmp_path: Path, amount: int) -> None:
    async def story() -> None:
        async with open_sqlite(tmp_path / "l.db", ManualClock()) as store:
            with pytest.raises(ValueError, match="lnd reports"):
                await store.ledger.fund(
                    settlement(hash_of("p"), amount), for_challenge(ALICE), cursor=Cursor(1, 1)
                )

            assert await store.statements.cursor(NODE) == Cursor(0, 0)
            assert await store.statements.account(ALICE) is None

    run(story())


@in_books
async def test_one_msat_and_every_bitcoin_are_credited(store: Store, clock: ManualClock) -> None:
    assert (await pay(store, 1)).balance == Balance(Msat(1), Msat(0))
    assert (await pay(store, sats(SATS_MAX), BOB)).balance == Balance(sats(SATS_MAX), Msat(0))


@in_books
async def test_an_invoice_that_was_recorded_stays_as_it_is(store: Store, clock: ManualClock) -> None:
    record = session("s")
    await store.ledger.open_session(record, token_digest=b"d" * 32, key_version=1)

    other = replace(invoice_of(record), payment_request="lnbc1other", amount=Msat(1), expires_at_ms=NOON)
    await store.ledger.add_invoice(other)

    assert await store.statements.session("s") == record


@in_books
async def test_a_cancelled_or_paid_invoice_does_not_expire_or_wait_again(
    store: Store, clock: ManualClock
) -> None:
    for name in ("expired", "cancelled", "paid", "open"):
        await store.ledger.open_session(session(name), token_digest=b"d" * 32, key_version=1)
    await store.ledger.fund(settlement(hash_of("paid")), None)
    for name, state in (("expired", InvoiceState.EXPIRED), ("cancelled", InvoiceState.CANCELLED)):
        await store.ledger.mark_invoice(hash_of(name), state)
    for name in ("cancelled", "paid"):
        await store.ledger.mark_invoice(hash_of(name), InvoiceState.EXPIRED)
        await store.ledger.mark_looked_up(hash_of(name), NOON)
    await store.ledger.mark_invoice(hash_of("expired"), InvoiceState.CANCELLED)

    found = [await store.statements.session(name) for name in ("expired", "cancelled", "paid", "open")]

    assert [invoice_of(one).state for one in found if one is not None] == [
        InvoiceState.CANCELLED,
        InvoiceState.CANCELLED,
        InvoiceState.SETTLED,
        InvoiceState.OPEN,
    ]
    due = await store.statements.invoices_to_look_up(NODE, limit=9)
    assert [record.payment_hash for record in due] == [hash_of("open")]


@in_books
async def test_of_the_invoices_that_are_due_the_longest_or_the_newest_come_first(
    store: Store, clock: ManualClock
) -> None:
    await pay(store, PRICE)
    names = ("first", "second", "third")
    for name in names:
        await store.ledger.add_invoice(invoice(hash_of(name)))
        clock.pass_ms(10)

    longest = await store.statements.invoices_to_look_up(NODE, limit=2)
    newest = await store.statements.invoices_to_look_up(NODE, limit=2, newest=True)

    assert [one.payment_hash for one in longest] == [hash_of("first"), hash_of("second")]
    assert [one.payment_hash for one in newest] == [hash_of("third"), hash_of("second")]


@in_books
async def test_a_purpose_for_a_shared_account_is_refused(store: Store, clock: ManualClock) -> None:
    with pytest.raises(ValueError, match="not a customer"):
        await store.ledger.fund(settlement(hash_of("p")), for_challenge("income:calls"))


@in_books
async def test_a_session_opens_once_and_its_token_finds_the_account(store: Store, clock: ManualClock) -> None:
    await pay(store, PRICE, BOB)
    for _ in range(2):
        await store.ledger.open_session(session("s"), token_digest=b"d" * 32, key_version=3)

    account = await store.statements.account(ALICE)
    assert await store.statements.account_by_token(b"d" * 32) == ALICE
    assert await store.statements.account_by_token(b"e" * 32) is None
    assert await store.statements.session("s") == session("s")
    assert await store.statements.session("t") is None
    assert account is not None
    assert (account.funded, account.token_key_version) == (False, 3)


@in_books
async def test_a_session_id_or_a_payment_hash_is_not_given_out_twice(
    store: Store, clock: ManualClock
) -> None:
    await store.ledger.open_session(session("s"), token_digest=b"d" * 32, key_version=1)

    with pytest.raises(ValueError, match="given out"):
        await store.ledger.open_session(session("s", BOB), token_digest=b"e" * 32, key_version=1)
    with pytest.raises(ValueError, match=f"payment hash {hash_of('s').hex()} was given out"):
        await store.ledger.add_invoice(invoice(hash_of("s")))
    other = SessionRecord("s", ALICE, invoice(hash_of("other"), purpose="session"))
    with pytest.raises(ValueError, match="session s was opened before with another invoice"):
        await store.ledger.open_session(other, token_digest=b"d" * 32, key_version=1)

    assert [one.payment_hash for one in await store.statements.invoices_to_look_up(NODE, limit=9)] == [
        hash_of("s")
    ]
    assert await store.statements.account(BOB) is None


@in_books
async def test_a_session_whose_payment_came_first_is_shown_as_paid(store: Store, clock: ManualClock) -> None:
    record = session("s")
    paid_before = await store.ledger.fund(settlement(hash_of("s")), None)
    await store.ledger.open_session(record, token_digest=b"d" * 32, key_version=1)
    await store.ledger.fund(settlement(hash_of("s")), None)

    found = await store.statements.session("s")

    assert paid_before.outcome is FundOutcome.FOREIGN
    assert found is not None
    assert invoice_of(found).state is InvoiceState.SETTLED
    assert invoice_of(found).payment_request == invoice_of(record).payment_request


@in_books
async def test_an_invoice_is_told_as_it_was_given_out_also_when_its_payment_came_first(
    store: Store, clock: ManualClock
) -> None:
    await pay(store, PRICE)
    given_out = (invoice_of(session(word, amount=7000)) for word in ("early", "late"))
    early, late = (replace(one, created_at_ms=NOON - 5, expires_at_ms=NOON + 5) for one in given_out)
    purpose = Purpose(PurposeKind.SESSION, ALICE)
    await store.ledger.fund(settlement(early.payment_hash, 8000), purpose)
    for word, record in (("early", early), ("late", late)):
        await store.ledger.open_session(
            SessionRecord(word, ALICE, record), token_digest=b"d" * 32, key_version=1
        )
    await store.ledger.fund(settlement(late.payment_hash, 9000), None)

    found = [await store.statements.session(word) for word in ("early", "late")]

    assert [invoice_of(one) for one in found if one is not None] == [
        replace(early, state=InvoiceState.SETTLED, amount_paid=Msat(8000)),
        replace(late, state=InvoiceState.SETTLED, amount_paid=Msat(9000)),
    ]
    assert await store.statements.invoices_to_look_up(NODE, limit=9) == []


@in_books
async def test_a_token_is_given_once(store: Store, clock: ManualClock) -> None:
    await pay(store, PRICE)

    first = await store.ledger.set_token(ALICE, token_digest=b"1" * 32, key_version=1)
    second = await store.ledger.set_token(ALICE, token_digest=b"2" * 32, key_version=2)

    assert (first, second) == (1, 1)
    assert await store.statements.account_by_token(b"2" * 32) is None
    with pytest.raises(LookupError, match=f"no account {BOB}"):
        await store.ledger.set_token(BOB, token_digest=b"3" * 32, key_version=1)


@in_books
async def test_a_top_up_needs_an_account(store: Store, clock: ManualClock) -> None:
    with pytest.raises(LookupError, match=f"no account {ALICE}"):
        await store.ledger.add_invoice(invoice(hash_of("i")))


@in_books
async def test_unpaid_invoices_are_looked_up_longest_due_first_until_told_otherwise(
    store: Store, clock: ManualClock
) -> None:
    async def due() -> list[bytes]:
        found = await store.statements.invoices_to_look_up(NODE, limit=9)
        return [record.payment_hash for record in found]

    one, two, three, four = (hash_of(word) for word in "1234")
    await pay(store, PRICE)
    for payment_hash in (one, two, three, four):
        await store.ledger.add_invoice(invoice(payment_hash))
    await store.ledger.mark_looked_up(one, NOON + 5)
    await store.ledger.mark_looked_up(two, NOON - 5)
    await store.ledger.mark_looked_up(three, None)
    await store.ledger.mark_invoice(four, InvoiceState.CANCELLED)

    now = await due()
    clock.pass_ms(5)
    later = await due()

    assert now == [two]
    assert later == [two, one]
    assert await store.statements.invoices_to_look_up("other", limit=9) == []


@in_books
async def test_what_ended_unpaid_is_not_looked_up_again(store: Store, clock: ManualClock) -> None:
    await pay(store, PRICE)
    for word, state in (("1", InvoiceState.EXPIRED), ("2", InvoiceState.CANCELLED)):
        await store.ledger.add_invoice(invoice(hash_of(word)))
        await store.ledger.mark_invoice(hash_of(word), state)

    assert await store.statements.invoices_to_look_up(NODE, limit=9) == []
    assert await store.statements.invoices_awaited(NODE, after=b"", limit=9) == []
    assert (await store.ledger.fund(settlement(hash_of("1")), None)).outcome is FundOutcome.APPLIED


@in_sqlite
async def test_an_expired_invoice_that_earlier_books_still_look_up_is_let_go(
    store: SqliteStore, clock: ManualClock
) -> None:
    await pay(store, PRICE)
    await store.ledger.add_invoice(invoice(hash_of("1")))
    await store.writer.run(
        lambda db, _: db.execute("UPDATE invoice SET state = 'expired' WHERE state = 'open'")
    )
    before = await store.statements.invoices_to_look_up(NODE, limit=9)
    await store.ledger.mark_invoice(hash_of("1"), InvoiceState.EXPIRED)

    assert [record.payment_hash for record in before] == [hash_of("1")]
    assert await store.statements.invoices_to_look_up(NODE, limit=9) == []


@in_books
async def test_awaited_invoices_come_in_pages_that_miss_none(store: Store, clock: ManualClock) -> None:
    await pay(store, PRICE)
    hashes = [hash_of(f"invoice {number}") for number in range(25)]
    for payment_hash in hashes:
        await store.ledger.add_invoice(invoice(payment_hash))
    found, after = list[bytes](), b""
    while page := await store.statements.invoices_awaited(NODE, after=after, limit=10):
        for record in page:
            await store.ledger.mark_looked_up(record.payment_hash, NOON + DAY_MS)
        found += [record.payment_hash for record in page]
        after = found[-1]

    assert found == sorted(hashes)
    assert await store.statements.invoices_awaited("other", after=b"", limit=10) == []


@in_books
async def test_an_invoice_is_not_marked_settled_or_open(store: Store, clock: ManualClock) -> None:
    for state in (InvoiceState.SETTLED, InvoiceState.OPEN):
        with pytest.raises(ValueError, match="not marked"):
            await store.ledger.mark_invoice(hash_of("i"), state)


@in_books
async def test_a_fact_is_what_was_noted_last(store: Store, clock: ManualClock) -> None:
    before = await store.statements.facts()
    await store.ledger.note("a", NOON)
    await store.ledger.note("a", NOON + DAY_MS)
    await store.ledger.note("b", NOON + 1)

    assert before == {"opened_at_ms": NOON, "revision_floor": 1}
    assert await store.statements.facts() == {**before, "a": NOON + DAY_MS, "b": NOON + 1}


@in_books
async def test_a_shared_account_is_nobodys(store: Store, clock: ManualClock) -> None:
    await pay(store, PRICE)

    for account_id in (INCOME_ACCOUNT, node_account(NODE)):
        asked = call(account_id=account_id)
        assert (await store.ledger.reserve(asked)).outcome is ReserveOutcome.UNKNOWN_ACCOUNT
        assert await store.statements.account(account_id) is None
        with pytest.raises(LookupError, match=account_id):
            await store.ledger.set_token(account_id, token_digest=b"1" * 32, key_version=1)
        with pytest.raises(LookupError, match=account_id):
            await store.ledger.add_invoice(invoice(hash_of("i"), account_id))
        with pytest.raises(ValueError, match=account_id):
            await store.ledger.open_session(session("s", account_id), token_digest=b"1" * 32, key_version=1)
