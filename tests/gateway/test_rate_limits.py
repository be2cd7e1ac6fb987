"""Rate limits: what is counted, what is waited for, what is forgotten."""

from dataclasses import dataclass

import pytest

from arkgate.core.errors import RateLimited
from arkgate.gateway.limits import Rate, RateLimit


@dataclass
class Clock:
    ms: int = 1_000_000

    def __call__(self) -> float:
        return self.ms / 1000


def limit(clock: Clock, *, client: int = 3, everybody: int = 100, clients_max: int = 100) -> RateLimit:
    return RateLimit(
        "challenges",
        client=Rate(client, 60),
        everybody=Rate(everybody, 60),
        clock=clock,
        clients_max=clients_max,
    )


def refused(rate_limit: RateLimit, client: str) -> RateLimited:
    with pytest.raises(RateLimited) as caught:
        rate_limit.take(client)
    return caught.value


def test_the_stated_wait_is_true() -> None:
    clock = Clock()
    rate_limit = limit(clock)
    for _ in range(3):
        rate_limit.take("a")
    wait = refused(rate_limit, "a").retry_after_seconds

    assert wait == 20
    clock.ms += 19_000
    refused(rate_limit, "a")
    clock.ms += 1_000
    rate_limit.take("a")
    refused(rate_limit, "a")


def test_one_client_does_not_use_up_anothers_share() -> None:
    rate_limit = limit(Clock())
    for _ in range(3):
        rate_limit.take("a")
    refused(rate_limit, "a")

    rate_limit.take("b")


def test_what_is_refused_is_not_counted() -> None:
    clock = Clock()
    rate_limit = limit(clock, everybody=4)
    for _ in range(3):
        rate_limit.take("a")
    for _ in range(10):
        refused(rate_limit, "a")

    rate_limit.take("b")
    assert "all clients" in refused(rate_limit, "b").message
    clock.ms += 15_000
    rate_limit.take("b")


def test_a_quiet_time_does_not_save_up_more_than_the_limit() -> None:
    clock = Clock()
    rate_limit = limit(clock)
    rate_limit.take("a")
    clock.ms += 3600_000
    for _ in range(3):
        rate_limit.take("a")

    refused(rate_limit, "a")


def test_a_clock_that_is_set_back_refuses_nobody_for_longer() -> None:
    clock = Clock()
    rate_limit = limit(clock)
    rate_limit.take("a")
    clock.ms -= 900_000

    rate_limit.take("a")
    rate_limit.take("a")
    assert (refused(rate_limit, "a").retry_after_seconds or 0) <= 20


def test_clients_are_bounded_and_the_quietest_is_forgotten_first() -> None:
    rate_limit = limit(Clock(), client=1, clients_max=2)
    rate_limit.take("a")
    rate_limit.take("b")
    refused(rate_limit, "a")
    rate_limit.take("c")

    refused(rate_limit, "a")
    rate_limit.take("b")
