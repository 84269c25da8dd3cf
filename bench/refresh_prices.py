"""Writes anos/prices.json from the data that is inside the package genai-prices; no network.

Only what the gateway bills is taken: models that answer with text, at the standard price of the
day. A price that depends on the hour is the dearest of the day.
"""

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from importlib.metadata import version
from math import ceil
from pathlib import Path

import msgspec
from genai_prices import types
from genai_prices.data import providers

from anos import pricing

TARGET = Path(pricing.__file__).with_name("prices.json")
# Where two of them sell under the same name, the first one's price is taken: the vendor's own.
PROVIDERS = (
    *("openai", "anthropic", "google", "deepseek", "x-ai", "cohere", "mistral"),
    *("groq", "together", "fireworks", "openrouter"),
)
# Matched in a name: no text comes out, or it is no name that a request would have.
_OTHER = re.compile(
    r"embed|moderation|whisper|tts|transcri|realtime|audio|image|banana|ocr"
    r"|gemini-omni|\blive\b|:|[^a-z0-9]$|(?<!-\d\d)-20\d\d$",
    re.IGNORECASE,
)
_OTHER_UNITS = ("_hours", "_mchars", "_kpages", "_audio_mtok", "_image_mtok", "_video_mtok")


def table(day: date) -> dict[str, pricing.Price]:
    """Deployment to price on a day; without the names that `pricing.find` leads to another."""
    every: dict[str, pricing.Price] = {}
    for provider in sorted_providers():
        for model in provider.models:
            if price := price_of(on(model, day)):
                every.update((name, price) for name in names(provider, model) if name not in every)
    found = pricing.Prices(day.isoformat(), "", {})
    # What `find` tries instead of a name is shorter, so that it has been decided before.
    for name in sorted(every, key=len):
        if pricing.find(found, name) != every[name]:
            found.models[name] = every[name]
    return found.models


def sorted_providers() -> list[types.Provider]:
    """Those that are taken, in the order of precedence."""
    by_id = {provider.id: provider for provider in providers}
    return [by_id[name] for name in PROVIDERS]


def names(provider: types.Provider, model: types.ModelInfo) -> Iterator[str]:
    """The names of a model that answers with text, as a request to its provider has them."""
    for name in dict.fromkeys((model.id, *literals(model.match))):
        is_whole = provider.id != "openrouter" or "/" in name
        if is_whole and not _OTHER.search(name) and provider.find_model(name) is model:
            yield name


def literals(clause: types.MatchLogic) -> Iterator[str]:
    """Every name, or beginning of one, in a rule that recognises a model."""
    match clause:
        case types.ClauseEquals(equals=name) | types.ClauseStartsWith(starts_with=name):
            yield name
        case types.ClauseOr(or_=clauses) | types.ClauseAnd(and_=clauses):
            for part in clauses:
                yield from literals(part)


def on(model: types.ModelInfo, day: date) -> types.ModelPrice:
    """The standard prices of a model on a day, those of its dearest hour."""
    times = [time(hour, minute) for hour in range(24) for minute in (0, 30)]
    moments = [datetime.combine(day, at, UTC) for at in times]
    return max(
        map(model.get_prices, moments), key=lambda price: rate(price.input_mtok or Decimal(0))
    )


def price_of(price: types.ModelPrice) -> pricing.Price | None:
    """Our form of a price; None if it is not one of text in and text out."""
    known = {key: value for key, value in vars(price).items() if value is not None}
    if not {"input_mtok", "output_mtok"} <= set(known) or any(
        key.endswith(_OTHER_UNITS) and not key.startswith("input") for key in known
    ):
        return None
    tiered = [value for value in known.values() if isinstance(value, types.TieredPrices)]
    starts = sorted({tier.start for value in tiered for tier in value.tiers})
    tiers = (pricing.Tier(over_input_tokens=start, **rates(price, start)) for start in starts)
    return pricing.Price(**rates(price), tiers=tuple(tiers))


def rates(price: types.ModelPrice, over: int = -1) -> dict[str, int]:
    """The fields of `pricing.Rates` for more than `over` input tokens."""
    inputs, outputs = price.input_mtok, price.output_mtok
    # Where a kind has no rate of its own it costs what all input, or all output, costs.
    choices = {
        "input": (inputs,),
        "output": (outputs,),
        "cached_input": (price.cache_read_mtok, inputs),
        "cache_write": (price.cache_write_mtok, inputs),
        "reasoning": (price.output_reasoning_mtok, outputs),
    }
    return {
        field: next(rate(value, over) for value in values if value is not None)
        for field, values in choices.items()
    }


def rate(value: Decimal | types.TieredPrices, over: int = -1) -> int:
    """Micro-dollars per million tokens, of dollars per million."""
    if isinstance(value, types.TieredPrices):
        reached = [value.base, *(tier.price for tier in value.tiers if tier.start <= over)]
        value = reached[-1]
    return ceil(value * 1_000_000)


def text(models: dict[str, pricing.Price], day: date) -> str:
    """The file: one model a line, sorted, so that a refresh reads as a difference."""
    source = f"genai-prices {version('genai-prices')}"
    lines = (f'"{name}":{msgspec.json.encode(models[name]).decode()}' for name in sorted(models))
    head = f'"version": "{day}",\n"source": "{source}",\n"models": {{\n'
    return "{\n" + head + ",\n".join(lines) + "\n}\n}\n"


if __name__ == "__main__":
    today = datetime.now(UTC).date()
    TARGET.write_text(text(table(today), today))
    print(f"{TARGET}: prices of {today}")
