"""Limits of requests, tokens and concurrent calls, and the queue."""

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from anos.config_sections import Limit, Queue
from anos.errors import RateLimited, envelope
from anos.limits import Grant, Limits, Scope


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limits(clock: Clock) -> Limits:
    return Limits(clock)


def key(name: str = "ci", **limit: Any) -> Scope:
    return (f"key:{name}", Limit(**limit))


def everybody(**limit: Any) -> Scope:
    return ("global", Limit(**limit))


def begun(limits: Limits, *scopes: Scope) -> Grant:
    grant = limits.try_take(scopes)
    assert grant is not None
    return grant


def refused(limits: Limits, *scopes: Scope) -> dict[str, str]:
    """The headers of the refusal."""
    with pytest.raises(RateLimited) as refusal:
        limits.try_take(scopes)
    return refusal.value.headers


def left(limits: Limits, scope: Scope, kind: str = "requests") -> int:
    """How much a scope has left, learnt by a call that does not count."""
    grant = begun(limits, scope)
    grant.undo()
    return int(grant.headers()[f"x-ratelimit-remaining-{kind}"])


# Requests ----------------------------------------------------------------------------------------


def test_a_call_counts_once_in_every_scope_and_a_refused_one_in_none(limits: Limits) -> None:
    few, all_ = key(requests_per_minute=2), everybody(requests_per_minute=10)
    begun(limits, few, all_)
    begun(limits, few, all_)
    for _ in range(3):
        refused(limits, few, all_)
        refused(limits, all_, few)
    assert left(limits, all_) == 8


def test_a_refusal_says_when_to_come_back_and_what_the_limit_is(
    limits: Limits, clock: Clock
) -> None:
    scope = key(requests_per_minute=1)
    begun(limits, scope)
    clock.now += 29.5996
    with pytest.raises(RateLimited) as refusal:
        limits.try_take([scope])
    assert refusal.value.headers == {
        "Retry-After": "31",
        "retry-after-ms": "30401",
        "x-ratelimit-limit-requests": "1",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "30.400s",
    }
    assert envelope(refusal.value) == {
        "error": {
            "message": "Rate limit exceeded",
            "type": "rate_limit_error",
            "param": "",
            "code": 429,
        }
    }
    clock.now += 30.401
    begun(limits, scope)


def test_of_several_refusals_the_longest_is_told(limits: Limits, clock: Clock) -> None:
    few, all_ = key(requests_per_minute=1), everybody(requests_per_minute=2)
    begun(limits, all_)
    clock.now += 10
    begun(limits, few, all_)
    headers = refused(limits, all_, few)
    assert (headers["Retry-After"], headers["x-ratelimit-limit-requests"]) == ("60", "1")


def test_headers_are_of_the_scope_with_the_least_left(limits: Limits, clock: Clock) -> None:
    few = key(requests_per_minute=3, tokens_per_minute=1000)
    all_ = everybody(requests_per_minute=100, tokens_per_minute=500)
    grant = begun(limits, few, all_)
    clock.now += 15
    grant.reserve_tokens(200)
    assert grant.headers() == {
        "x-ratelimit-limit-requests": "3",
        "x-ratelimit-remaining-requests": "2",
        "x-ratelimit-reset-requests": "45.000s",
        "x-ratelimit-limit-tokens": "500",
        "x-ratelimit-remaining-tokens": "300",
        "x-ratelimit-reset-tokens": "60.000s",
    }


@pytest.mark.parametrize("scopes", [[], [key(concurrent=1)]])
def test_without_a_limit_of_requests_or_tokens_there_are_no_headers(
    limits: Limits, scopes: Sequence[Scope]
) -> None:
    grant = begun(limits, *scopes)
    grant.reserve_tokens(1_000_000)
    assert grant.headers() == {}
    grant.close(1_000_000)


def test_ten_times_the_load_is_admitted_at_the_limit(limits: Limits, clock: Clock) -> None:
    scopes = [key(requests_per_minute=200), everybody(requests_per_minute=100)]
    admitted = 0
    for _ in range(5 * 1000):
        try:
            begun(limits, *scopes).close(0)
            admitted += 1
        except RateLimited:
            pass
        clock.now += 0.06
    assert admitted == pytest.approx(5 * 100, rel=0.01)


# Tokens ------------------------------------------------------------------------------------------


def test_tokens_are_held_while_a_call_runs_and_what_it_used_stays(
    limits: Limits, clock: Clock
) -> None:
    scope = key(tokens_per_minute=100)
    first, second = begun(limits, scope), begun(limits, scope)
    first.reserve_tokens(40)
    second.reserve_tokens(60)
    assert left(limits, scope, "tokens") == 0
    first.close(10)
    assert left(limits, scope, "tokens") == 30
    clock.now += 30
    second.close()
    assert left(limits, scope, "tokens") == 30
    clock.now += 30
    assert left(limits, scope, "tokens") == 40


def test_a_call_whose_tokens_do_not_fit_has_never_been(limits: Limits, clock: Clock) -> None:
    few = key(requests_per_minute=5, concurrent=2, tokens_per_minute=100)
    all_ = everybody(requests_per_minute=9, tokens_per_minute=1000)
    running = begun(limits, few, all_)
    running.reserve_tokens(70)
    running.close(70)
    clock.now += 20
    grant = begun(limits, few, all_)
    with pytest.raises(RateLimited) as refusal:
        grant.reserve_tokens(31)
    grant.close(500)
    assert refusal.value.message == (
        "Rate limit exceeded: this request may take 31 tokens, and 30 of 100 a minute are left"
    )
    assert refusal.value.headers == {
        "Retry-After": "40",
        "retry-after-ms": "40000",
        "x-ratelimit-limit-requests": "5",
        "x-ratelimit-remaining-requests": "4",
        "x-ratelimit-reset-requests": "40.000s",
        "x-ratelimit-limit-tokens": "100",
        "x-ratelimit-remaining-tokens": "30",
        "x-ratelimit-reset-tokens": "40.000s",
    }
    assert (left(limits, all_), left(limits, all_, "tokens")) == (8, 930)
    begun(limits, few)
    begun(limits, few)


def test_what_was_undone_or_closed_cannot_be_undone(limits: Limits) -> None:
    scope = key(requests_per_minute=5, concurrent=5)
    grants = [begun(limits, scope) for _ in range(3)]
    grants[0].undo()
    grants[0].undo()
    grants[1].close()
    grants[1].undo()
    assert left(limits, scope) == 3


def test_a_call_that_reserved_nothing_used_nothing(limits: Limits) -> None:
    scope = key(tokens_per_minute=100)
    begun(limits, scope).close(50)
    assert left(limits, scope, "tokens") == 100


# Slots and the queue -----------------------------------------------------------------------------


def test_without_a_queue_a_call_over_the_slots_is_refused(limits: Limits) -> None:
    few, all_ = key(concurrent=2, requests_per_minute=9), everybody(requests_per_minute=9)
    grants = [begun(limits, few, all_) for _ in range(2)]
    headers = refused(limits, few, all_)
    assert (headers["Retry-After"], headers["retry-after-ms"]) == ("1", "1000")
    assert headers["x-ratelimit-remaining-requests"] == "7"
    assert left(limits, all_) == 7
    grants[0].close()
    grants[0].close()
    begun(limits, few, all_)
    refused(limits, few, all_)


def queued(concurrent: int = 1, size: int = 9, wait_s: float = 20.0, **limit: Any) -> Scope:
    return everybody(concurrent=concurrent, queue=Queue(size=size, wait_s=wait_s), **limit)


async def waiting(limits: Limits, *scopes: Scope, key: str = "ci") -> asyncio.Task[Grant]:
    """A call that waits in the queue."""
    assert limits.try_take(scopes) is None
    task = asyncio.create_task(limits.take(scopes, key))
    await settled()
    assert not task.done()
    return task


async def settled() -> None:
    """Let every task run as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_call_does_not_wait_where_there_is_room(limits: Limits) -> None:
    scope = queued(concurrent=1, requests_per_minute=5)
    grant = await limits.take([scope], "ci")
    assert grant.headers()["x-ratelimit-remaining-requests"] == "4"


async def test_a_call_waits_for_a_slot_and_counts_when_it_begins(limits: Limits) -> None:
    scope = queued(requests_per_minute=5)
    running = begun(limits, scope)
    task = await waiting(limits, scope)
    assert running.headers()["x-ratelimit-remaining-requests"] == "4"
    running.close()
    assert limits.try_take([scope]) is None, "the slot was given to who waits"
    assert (await task).headers()["x-ratelimit-remaining-requests"] == "3"


async def test_keys_take_turns_and_within_a_key_the_first_comes_first(limits: Limits) -> None:
    scope, order = queued(), []
    running = begun(limits, scope)

    async def call(name: str) -> None:
        grant = await limits.take([scope], name[0])
        order.append(name)
        grant.close()

    calls = [call(name) for name in ("a1", "a2", "a3", "a4", "b1", "c1", "c2")]
    tasks = [asyncio.create_task(each) for each in calls]
    await settled()
    running.close()
    await asyncio.gather(*tasks)
    assert order == ["a1", "b1", "c1", "a2", "c2", "a3", "a4"]


async def test_a_full_queue_refuses(limits: Limits) -> None:
    scope = queued(size=2)
    running = begun(limits, scope)
    tasks = [await waiting(limits, scope) for _ in range(2)]
    assert refused(limits, scope)["Retry-After"] == "1"
    with pytest.raises(RateLimited):
        await limits.take([scope], "other")
    running.close()
    (await tasks[0]).close()
    (await tasks[1]).close()
    begun(limits, scope)


async def test_a_wait_that_is_over_is_refused_and_leaves_no_trace(limits: Limits) -> None:
    scope = queued(size=1, wait_s=0.01, requests_per_minute=5)
    running = begun(limits, scope)
    for _ in range(2):
        with pytest.raises(RateLimited) as refusal:
            await limits.take([scope], "ci")
        assert refusal.value.headers["Retry-After"] == "1"
        assert refusal.value.headers["x-ratelimit-remaining-requests"] == "4"
    running.close()
    assert left(limits, scope) == 4


async def test_one_scope_without_a_queue_refuses_though_another_has_one(limits: Limits) -> None:
    patient, strict = queued(), key(concurrent=1)
    begun(limits, patient, strict)
    refused(limits, patient, strict)
    refused(limits, strict, patient)
    assert limits.try_take([patient]) is None


async def test_a_call_whose_requests_are_used_up_is_refused_and_does_not_wait(
    limits: Limits, clock: Clock
) -> None:
    scope = queued(requests_per_minute=1)
    begun(limits, scope)
    clock.now += 15
    with pytest.raises(RateLimited) as refusal:
        await limits.take([scope], "ci")
    assert refusal.value.headers["Retry-After"] == "45"


async def test_a_call_whose_requests_are_used_up_while_it_waits_is_refused(limits: Limits) -> None:
    scope, few = queued(), key(requests_per_minute=1)
    running = begun(limits, scope)
    doomed, next_ = await waiting(limits, scope, few), await waiting(limits, scope)
    begun(limits, few)
    running.close()
    with pytest.raises(RateLimited):
        await doomed
    (await next_).close()
    begun(limits, scope)


async def test_a_caller_that_leaves_the_queue_leaves_no_trace(limits: Limits) -> None:
    scope = queued(size=2, requests_per_minute=5)
    running = begun(limits, scope)
    first, second = await waiting(limits, scope), await waiting(limits, scope)
    first.cancel()
    await settled()
    third = await waiting(limits, scope)
    running.close()
    (await second).close()
    (await third).close()
    assert first.cancelled()
    assert left(limits, scope) == 2


@pytest.mark.parametrize("cancelled_first", [True, False])
async def test_a_caller_that_leaves_when_its_turn_comes_passes_the_turn_on(
    limits: Limits, cancelled_first: bool
) -> None:
    scope = queued(requests_per_minute=5)
    running = begun(limits, scope)
    leaving, next_ = await waiting(limits, scope), await waiting(limits, scope)
    if cancelled_first:
        leaving.cancel()
        running.close()
    else:
        running.close()
        leaving.cancel()
    (await next_).close()
    assert leaving.cancelled()
    assert left(limits, scope) == 3


async def test_a_caller_that_leaves_when_it_is_refused_leaves_no_trace(limits: Limits) -> None:
    scope, few = queued(), key(requests_per_minute=1)
    running = begun(limits, scope)
    leaving = await waiting(limits, scope, few)
    begun(limits, few)
    running.close()
    leaving.cancel()
    await settled()
    assert leaving.cancelled()
    begun(limits, scope)


async def test_who_waits_for_slots_in_two_scopes_keeps_none_from_others(limits: Limits) -> None:
    all_ = queued()
    own = key(concurrent=1, queue=Queue(size=9, wait_s=20.0))
    holds_own, holds_all = begun(limits, own), begun(limits, all_)
    both = await waiting(limits, own, all_)
    holds_own.close()
    await settled()
    assert not both.done()
    other = begun(limits, own)
    holds_all.close()
    await settled()
    assert not both.done()
    begun(limits, all_).close()
    other.close()
    (await both).close()
    begun(limits, own, all_)


async def test_under_any_load_no_slot_is_lost_and_nobody_is_forgotten(limits: Limits) -> None:
    """Calls of five keys begin, end and leave at random."""
    random = Random(1)
    queue = Queue(size=20, wait_s=20.0)
    all_ = everybody(concurrent=4, queue=queue)
    scopes = {name: [key(name, concurrent=2, queue=queue), all_] for name in "abcde"}
    running: list[tuple[str, Grant]] = []
    pending: dict[asyncio.Task[Grant], str] = {}
    most = 0

    async def collect() -> None:
        await settled()
        for task in [task for task in pending if task.done()]:
            name = pending.pop(task)
            if not task.cancelled() and task.exception() is None:
                running.append((name, task.result()))

    for _ in range(2000):
        match random.randrange(9):
            case 0 | 1 | 2 | 3 | 4:
                name = random.choice("abcde")
                pending[asyncio.create_task(limits.take(scopes[name], name))] = name
            case 5 | 6 | 7 if running:
                running.pop(random.randrange(len(running)))[1].close()
            case 8 if pending:
                random.choice([*pending]).cancel()
        if random.random() < 0.5:
            await collect()
        names = [name for name, _ in running]
        assert len(names) <= 4
        assert all(names.count(name) <= 2 for name in names)
        most = max(most, len(pending))
    while pending or running:
        await collect()
        assert running, "somebody waits though every slot is free"
        while running:
            running.pop()[1].close()
    assert most > 20
    for name in "abcde":
        grants = [begun(limits, *scopes[name]) for _ in range(2)]
        assert limits.try_take(scopes[name]) is None
        for grant in grants:
            grant.close()
    assert len([begun(limits, all_) for _ in range(4)]) == 4
    assert limits.try_take([all_]) is None


# A reload ----------------------------------------------------------------------------------------


def test_windows_stay_as_full_over_a_reload(limits: Limits) -> None:
    grant = begun(limits, key(requests_per_minute=5, tokens_per_minute=100, concurrent=2))
    grant.reserve_tokens(60)
    limits.configure({"key:ci"})
    changed = key(requests_per_minute=3, tokens_per_minute=90, concurrent=1)
    refused(limits, changed)
    grant.close(50)
    assert (left(limits, changed), left(limits, changed, "tokens")) == (2, 40)


def test_a_limit_that_is_gone_keeps_nothing(limits: Limits) -> None:
    scope = key(requests_per_minute=1, tokens_per_minute=100)
    grant = begun(limits, scope)
    grant.reserve_tokens(60)
    begun(limits, key(concurrent=5)).close()
    assert begun(limits, scope).headers()["x-ratelimit-remaining-tokens"] == "100"
    refused(limits, scope)
    limits.configure({"global"})
    assert left(limits, scope) == 1
    grant.close(70)
    assert left(limits, scope, "tokens") == 100


def test_calls_that_run_count_for_a_limit_that_comes(limits: Limits) -> None:
    grant = begun(limits, key(requests_per_minute=9))
    refused(limits, key(concurrent=1))
    grant.close()
    begun(limits, key(concurrent=1))


async def test_a_higher_limit_lets_those_begin_who_wait(limits: Limits) -> None:
    begun(limits, queued(1))
    tasks = [await waiting(limits, queued(1)) for _ in range(3)]
    assert limits.try_take([queued(3)]) is None
    await asyncio.gather(*tasks[:2])
    assert not tasks[2].done()
    tasks[2].cancel()
    await settled()
    assert tasks[2].cancelled()


# A restart ---------------------------------------------------------------------------------------


def test_the_windows_are_filled_from_what_was_before_a_restart(
    limits: Limits, clock: Clock
) -> None:
    own = key(requests_per_minute=10, tokens_per_minute=1000)
    project = ("project:x", Limit(requests_per_minute=10))
    model = ("model:gpt-4", Limit(tokens_per_minute=1000))
    all_ = everybody(requests_per_minute=10, tokens_per_minute=1000)

    def scopes_of(name: str, owner: str, used: str | None) -> list[Scope]:
        known = {scope[0]: scope for scope in (own, project, model, all_)}
        names = {f"key:{name}", owner, f"model:{used}", "global"}
        return [scope for name, scope in known.items() if name in names]

    now_ms = 1_700_000_000_000
    rows = [
        ("ci", "project:x", "gpt-4", now_ms - 20_000, now_ms - 10_000, True, 100),
        ("ci", "key:ci", "gpt-4", now_ms - 50_000, now_ms - 5_000, True, 200),
        ("other", "project:x", "gpt-5", now_ms - 90_000, now_ms - 40_000, True, 400),
        ("ci", "key:ci", None, now_ms - 30_000, now_ms - 30_000, False, 0),
        ("other", "key:other", "gpt-4", now_ms + 9_000, now_ms + 9_000, True, 50),
    ]
    limits.restore(rows, scopes_of, now_ms)
    assert (left(limits, own), left(limits, own, "tokens")) == (8, 700)
    assert left(limits, project) == 9
    assert left(limits, model, "tokens") == 650
    assert (left(limits, all_), left(limits, all_, "tokens")) == (7, 250)
    clock.now += 15
    assert left(limits, own) == 9
    clock.now += 10
    assert left(limits, all_, "tokens") == 650
    clock.now += 40
    assert (left(limits, all_), left(limits, all_, "tokens")) == (10, 1000)
