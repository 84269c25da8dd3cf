"""What tokens cost, in whole micro-dollars, and how many they are where no upstream tells."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

# English prose is about four bytes a token in every common tokenizer. Other scripts take more
# bytes a character but no fewer tokens, so bytes are the steadier measure.
_BYTES_PER_TOKEN = 4
_PER = 1_000_000  # a rate is for so many tokens

_BUNDLED = Path(__file__).with_name("prices.json")
# What vendors append to the name of one version of a model: 2025-08-07, 20250514, 001.
_VERSION = re.compile(r"[-@](\d{4}-\d\d-\d\d|\d{8}|00\d)$")


class Rates(Struct, frozen=True, kw_only=True):
    """Micro-dollars per million tokens; each kind at the whole rate, not as a difference."""

    input: int
    output: int
    cached_input: int
    cache_write: int
    reasoning: int


class Tier(Rates, frozen=True, kw_only=True):
    """The rates of a whole request that has more than `over_input_tokens` input tokens."""

    over_input_tokens: int


class Price(Rates, frozen=True, kw_only=True, omit_defaults=True):
    """The rates of one deployment, and its tiers from the lowest to the highest."""

    tiers: tuple[Tier, ...] = ()


class Prices(Struct, frozen=True):
    """A price list: the day its prices are of, where they are from, deployment to price."""

    version: str
    source: str
    models: dict[str, Price]


class Bound(Struct, frozen=True):
    """What a call can come to at most, on any of its routes."""

    input_tokens: int
    output_tokens: int
    micro_usd: int


FREE = Price(input=0, output=0, cached_input=0, cache_write=0, reasoning=0)


def cost(price: Price, usage: Mapping[str, Any]) -> int:
    """Micro-dollars of `usage`, rounded up.

    `usage` has the shape of a Response's. Cached and cache-write tokens are part of the input,
    reasoning tokens of the output; a detail that is missing is 0, one that is negative or more
    than there is counts as none or as all. It runs once a request: comparisons, as `min` and
    `max` would take twice the time.
    """
    inputs: int = usage["input_tokens"]
    outputs: int = usage["output_tokens"]
    if inputs < 0:
        inputs = 0
    if outputs < 0:
        outputs = 0
    rates = _rates(price, inputs) if price.tiers else price
    total = inputs * rates.input + outputs * rates.output
    if details := usage.get("input_tokens_details"):
        if (written := details.get("cache_write_tokens")) and written > 0:
            written = inputs if written > inputs else written
            total += written * (rates.cache_write - rates.input)
            inputs -= written
        if (cached := details.get("cached_tokens")) and cached > 0:
            total += (inputs if cached > inputs else cached) * (rates.cached_input - rates.input)
    if (
        (details := usage.get("output_tokens_details"))
        and (reasoning := details.get("reasoning_tokens"))
        and reasoning > 0
    ):
        reasoning = outputs if reasoning > outputs else reasoning
        total += reasoning * (rates.reasoning - rates.output)
    return (total + _PER - 1) // _PER


def most(price: Price, input_tokens: int, output_tokens: int) -> int:
    """Micro-dollars that no usage of at most so many tokens costs more than, rounded up."""
    inputs, outputs = max(input_tokens, 0), max(output_tokens, 0)
    if not price.tiers:
        return -(-_dearest(price, inputs, outputs) // _PER)
    reachable = [price, *(tier for tier in price.tiers if tier.over_input_tokens < inputs)]
    total = max(_dearest(rates, inputs, outputs) for rates in reachable)
    return (total + _PER - 1) // _PER


def _dearest(rates: Rates, inputs: int, outputs: int) -> int:
    read = max(rates.input, rates.cached_input, rates.cache_write)
    return inputs * read + outputs * max(rates.output, rates.reasoning)


def estimate(text_bytes: int) -> int:
    """Tokens in `text_bytes` bytes of UTF-8 text, rounded up."""
    return -(-text_bytes // _BYTES_PER_TOKEN)


def load(path: Path = _BUNDLED) -> Prices:
    """The price list in a file, by default the one that comes with the gateway.

    Raises OSError, and msgspec.DecodeError if the file is no price list.
    """
    return msgspec.json.decode(path.read_bytes(), type=Prices)


def find(prices: Prices, deployment: str) -> Price | None:
    """The price of a deployment, None if none is known.

    By its name as it is, else without a date at its end (`gpt-4o-2024-08-06`), else without a
    vendor before it (`openai/gpt-4o`), else without both.
    """
    own = deployment.partition("/")[2] or deployment
    names = (deployment, _VERSION.sub("", deployment), own, _VERSION.sub("", own))
    return next((prices.models[name] for name in names if name in prices.models), None)


def _rates(price: Price, input_tokens: int) -> Rates:
    for tier in reversed(price.tiers):
        if tier.over_input_tokens < input_tokens:
            return tier
    return price
