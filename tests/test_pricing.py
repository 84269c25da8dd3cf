"""What a call costs: against hand-made sums, against genai-prices, and within its bound."""

import json
from datetime import date
from decimal import Decimal
from math import ceil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from genai_prices import Usage
from hypothesis import given, settings
from hypothesis import strategies as st

from anos import items, pricing
from anos.pricing import FREE, Price, Tier, cost, find, most
from bench import refresh_prices

PRICES = pricing.load()
DAY = date(2026, 1, 15)
TABLE = refresh_prices.table(DAY)
SOLD = [
    (provider, model, name)
    for provider in refresh_prices.sorted_providers()
    for model in provider.models
    if refresh_prices.price_of(refresh_prices.on(model, DAY))
    for name in refresh_prices.names(provider, model)
]

COUNTS = st.integers(0, 3_000_000)
KINDS = ("input", "output", "cached_input", "cache_write", "reasoning")
RATES = st.fixed_dictionaries(dict.fromkeys(KINDS, COUNTS))
WILD = st.none() | st.integers(-(10**7), 10**7)
STARTS = st.lists(st.integers(0, 1_000_000), max_size=3, unique=True).map(sorted)

TOTALS = ("input_tokens", "output_tokens")
DETAILS = {
    "input_tokens_details": ["cached_tokens", "cache_write_tokens"],
    "output_tokens_details": ["reasoning_tokens"],
}


@st.composite
def any_prices(draw: st.DrawFn) -> Price:
    tiers = tuple(Tier(over_input_tokens=at, **draw(RATES)) for at in draw(STARTS))
    return Price(**draw(RATES), tiers=tiers)


@st.composite
def any_usages(draw: st.DrawFn) -> dict[str, Any]:
    """Also what no upstream should report: details that are missing, negative or too large."""
    usage: dict[str, Any] = {name: draw(st.integers(-10, 3_000_000)) for name in TOTALS}
    for name, parts in DETAILS.items():
        if draw(st.booleans()):
            usage[name] = draw(st.none() | st.dictionaries(st.sampled_from(parts), WILD))
    return usage


def price_of(name: str) -> Price:
    """The price on `DAY`, so that a refresh of the list changes no sum below."""
    return TABLE[name]


def dollars(**rates: int) -> dict[str, Any]:
    """All the fields of rates, in dollars per million tokens; 0 if not given."""
    return {kind: rates.get(kind, 0) * 1_000_000 for kind in KINDS}


def test_a_plain_call_is_input_and_output_at_their_rates() -> None:
    # 1,000 at $2.50 and 500 at $10 a million.
    assert cost(price_of("gpt-4o"), items.usage(1000, 500)) == 2500 + 5000


def test_cached_input_is_part_of_the_input_at_its_own_rate() -> None:
    # 600 at $2.50, 400 at $1.25 and 500 at $10 a million.
    usage = items.usage(1000, 500, cached=400)
    assert cost(price_of("gpt-4o"), usage) == 1500 + 500 + 5000


def test_cache_writes_cost_more_than_input() -> None:
    # 200 at $5, 700 at $0.50, 100 at $6.25 and 300 at $25 a million.
    usage = items.usage(1000, 300, cached=700, cache_write=100)
    assert cost(price_of("claude-opus-4-5"), usage) == 1000 + 350 + 625 + 7500


def test_a_tier_begins_above_its_count_and_is_for_the_whole_request() -> None:
    price = price_of("gemini-2.5-pro")
    # At $1.25 and $10, then at $2.50 and $15 a million.
    assert cost(price, items.usage(200_000, 1000)) == 250_000 + 10_000
    assert cost(price, items.usage(200_001, 1000)) == ceil(500_002.5) + 15_000
    assert cost(price, items.usage(300_000, 1000, cached=100_000)) == 500_000 + 25_000 + 15_000


def test_the_last_tier_that_is_reached_counts() -> None:
    tiers = (
        Tier(**dollars(input=2), over_input_tokens=10),
        Tier(**dollars(input=3), over_input_tokens=20),
    )
    price = Price(**dollars(input=1), tiers=tiers)
    assert [cost(price, items.usage(count, 0)) for count in (10, 11, 20, 21)] == [10, 22, 40, 63]
    assert [most(price, count, 0) for count in (10, 11, 20, 21)] == [10, 22, 40, 63]


def test_reasoning_is_part_of_the_output_at_its_own_rate() -> None:
    price = Price(**dollars(output=1, reasoning=3))
    assert cost(price, items.usage(0, 100, reasoning=40)) == 60 + 120


def test_a_fraction_is_rounded_up_once() -> None:
    price = msgspec.structs.replace(FREE, input=1, output=1)
    assert cost(price, items.usage(0, 0)) == 0
    assert cost(price, items.usage(1, 1)) == 1
    assert cost(price, items.usage(500_000, 500_000)) == 1
    assert cost(price, items.usage(500_000, 500_001)) == 2


def test_what_is_free_costs_nothing() -> None:
    assert cost(FREE, items.usage(10**9, 10**9, cached=10, cache_write=10, reasoning=10)) == 0
    assert most(FREE, 10**9, 10**9) == 0


@pytest.mark.parametrize("count", [-5, 101, 10**9])
def test_a_detail_beyond_its_total_counts_as_none_or_as_all_of_it(count: int) -> None:
    price = Price(**dollars(input=10, output=10, cached_input=1, cache_write=20, reasoning=30))
    bounded = 0 if count < 0 else 100
    for name in ("cached", "cache_write", "reasoning"):
        usage = items.usage(100, 100, **{name: count})
        assert cost(price, usage) == cost(price, items.usage(100, 100, **{name: bounded}))
    both = items.usage(100, 0, cached=count, cache_write=60)
    rest = items.usage(100, 0, cached=min(bounded, 40), cache_write=60)
    assert cost(price, both) == cost(price, rest)


def test_negative_totals_count_as_nothing() -> None:
    assert cost(price_of("gpt-4o"), items.usage(-1000, 500, cached=10)) == 5000
    assert cost(price_of("gpt-4o"), items.usage(1000, -500, reasoning=10)) == 2500
    assert most(price_of("gpt-4o"), -1000, -500) == 0


def test_usage_without_details_is_all_plain() -> None:
    usage: dict[str, Any] = {"input_tokens": 1000, "output_tokens": 500}
    assert cost(price_of("gpt-4o"), usage) == 7500
    usage |= {"input_tokens_details": None, "output_tokens_details": {}}
    assert cost(price_of("gpt-4o"), usage) == 7500


@given(any_prices(), any_usages())
def test_no_call_costs_more_than_the_most_or_less_than_nothing(
    price: Price, usage: dict[str, Any]
) -> None:
    assert 0 <= cost(price, usage) <= most(price, usage["input_tokens"], usage["output_tokens"])


@given(any_prices(), any_usages(), COUNTS, COUNTS)
def test_the_most_holds_for_every_smaller_usage(
    price: Price, usage: dict[str, Any], more_in: int, more_out: int
) -> None:
    bound = most(price, usage["input_tokens"] + more_in, usage["output_tokens"] + more_out)
    assert cost(price, usage) <= bound


@given(any_prices(), COUNTS, COUNTS)
def test_the_most_is_what_the_dearest_usage_costs(price: Price, inputs: int, outputs: int) -> None:
    flat = msgspec.structs.replace(price, tiers=())
    dearest = max(
        cost(flat, items.usage(inputs, outputs, cached=cached, cache_write=written, reasoning=part))
        for cached, written in ((0, 0), (inputs, 0), (0, inputs))
        for part in (0, outputs)
    )
    assert most(flat, inputs, outputs) == dearest


@given(any_prices(), any_usages(), COUNTS, COUNTS)
def test_more_tokens_never_cost_less(
    price: Price, usage: dict[str, Any], more_in: int, more_out: int
) -> None:
    flat = msgspec.structs.replace(price, tiers=())
    more = usage | {
        "input_tokens": usage["input_tokens"] + more_in,
        "output_tokens": usage["output_tokens"] + more_out,
    }
    assert cost(flat, usage) <= cost(flat, more)


@given(st.sampled_from(sorted(PRICES.models)), COUNTS, COUNTS, COUNTS, COUNTS)
def test_more_tokens_never_cost_less_at_any_price_of_the_list(
    name: str, inputs: int, outputs: int, more_in: int, more_out: int
) -> None:
    price = PRICES.models[name]
    more = items.usage(inputs + more_in, outputs + more_out)
    assert cost(price, items.usage(inputs, outputs)) <= cost(price, more)


@settings(max_examples=500)
@given(st.sampled_from(SOLD), st.tuples(COUNTS, COUNTS, COUNTS, COUNTS))
def test_a_call_costs_what_genai_prices_says(
    sold: tuple[Any, Any, str], counts: tuple[int, int, int, int]
) -> None:
    provider, model, name = sold
    theirs = refresh_prices.on(model, DAY)
    cached, written, plain, outputs = counts
    inputs = plain + cached + written
    theirs_usd = theirs.calc_price(
        Usage(
            input_tokens=inputs,
            output_tokens=outputs,
            cache_read_tokens=cached,
            cache_write_tokens=written,
        )
    )["total_price"]
    price = refresh_prices.price_of(theirs)
    assert price is not None
    ours = cost(price, items.usage(inputs, outputs, cached=cached, cache_write=written))
    # A few of OpenRouter's rates are no whole micro-dollars: they are rounded up, too.
    finer = Decimal(inputs) / 1_000_000 if provider.id == "openrouter" else 0
    assert theirs_usd is not None
    assert 0 <= ours - theirs_usd * 1_000_000 < 1 + finer, name


def test_a_price_of_the_day_is_taken_and_of_the_dearest_hour() -> None:
    [o3] = [model for _, model, name in SOLD if name == "o3"]
    assert refresh_prices.on(o3, date(2025, 6, 9)).input_mtok == 10
    assert refresh_prices.on(o3, date(2025, 6, 10)).input_mtok == 2
    # $0.135 at night and $0.27 by day.
    assert price_of("deepseek-chat").input == 270_000


def test_every_name_finds_the_price_of_the_first_that_sells_it() -> None:
    listed = pricing.Prices("", "", TABLE)
    seen = set()
    for _, model, name in SOLD:
        if name not in seen:
            seen.add(name)
            price = refresh_prices.price_of(refresh_prices.on(model, DAY))
            assert find(listed, name) == price, name
    assert len(seen) > len(TABLE)


@pytest.mark.parametrize(
    ("deployment", "listed"),
    [
        ("gpt-4o", "gpt-4o"),
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),
        ("openai/gpt-4o", "gpt-4o"),
        ("openai/gpt-4o-2024-08-06", "gpt-4o"),
        ("claude-opus-4-5-20251101", "claude-opus-4-5"),
        ("claude-opus-4-5@20251101", "claude-opus-4-5"),
        ("models/gemini-2.5-pro", "gemini-2.5-pro"),
        ("gemini-2.0-flash-001", "gemini-2.0-flash"),
        ("openai/gpt-oss-120b", "openai/gpt-oss-120b"),
        ("gpt-4o-2024", None),
        ("gpt-4o-mine", None),
        ("another/vendor/gpt-4o", None),
        ("2024-08-06", None),
        ("openai/", None),
        ("", None),
    ],
)
def test_a_deployment_is_found_by_its_name_without_date_and_vendor(
    deployment: str, listed: str | None
) -> None:
    assert find(PRICES, deployment) == (listed and PRICES.models[listed])


def test_the_models_of_the_vendors_have_a_price_and_those_without_text_have_none() -> None:
    known = [
        *("gpt-5", "o4-mini", "claude-sonnet-4-5", "gemini-2.5-flash", "mistral-small-latest"),
        *("llama-3.3-70b-versatile", "deepseek-chat", "grok-4", "command-r-plus"),
    ]
    assert [name for name in known if not find(PRICES, name)] == []
    other = [
        *("whisper-1", "gpt-image-1", "text-embedding-3-small", "gpt-realtime", "mistral-embed"),
        *("tts-1", "gemini-2.5-flash-image", "gpt-4o-audio-preview", "omni-moderation-latest"),
    ]
    assert [name for name in other if find(PRICES, name)] == []


def test_the_list_that_comes_along_is_as_a_refresh_writes_it() -> None:
    written = Path(refresh_prices.TARGET).read_text()
    assert refresh_prices.TARGET.stat().st_size < 150_000
    listed = json.loads(written)["models"]
    assert list(listed) == sorted(listed)
    assert len(written.splitlines()) == len(listed) + 6
    assert PRICES.source.startswith("genai-prices ")
    rewritten = refresh_prices.text(PRICES.models, date.fromisoformat(PRICES.version))
    assert json.loads(rewritten)["models"] == listed


def test_every_price_of_the_list_is_possible() -> None:
    for name, price in PRICES.models.items():
        starts = [tier.over_input_tokens for tier in price.tiers]
        assert starts == sorted(set(starts)), name
        for rates in (price, *price.tiers):
            assert min(rates.input, rates.output, rates.cached_input, rates.cache_write) >= 0, name


def test_a_file_that_is_no_price_list_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "prices.json"
    path.write_text('{"version": "", "source": "", "models": {"m": {"input": 0.5}}}')
    with pytest.raises(msgspec.DecodeError, match=r"models\[...\]"):
        pricing.load(path)


@given(st.integers(0, 10**9))
def test_an_estimate_is_the_least_count_that_holds_the_bytes(text_bytes: int) -> None:
    tokens = pricing.estimate(text_bytes)
    assert tokens * 4 - 4 < text_bytes <= tokens * 4
