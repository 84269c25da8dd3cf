"""The fields of a key as LiteLLM's proxy calls them, to the settings of ours and back.

API: https://docs.litellm.ai/docs/proxy/virtual_keys
"""

import re
from calendar import monthrange
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from anos.config_sections import Budget, Config, Limit
from anos.errors import InvalidRequest
from anos.key_settings import Tree, iso
from anos.key_views import Known
from anos.validation import missing, unsupported, wrong_type

_LIMITS = {
    "rpm_limit": "requests_per_minute",
    "tpm_limit": "tokens_per_minute",
    "max_parallel_requests": "concurrent",
}
_BUDGET = {"max_budget": "usd", "soft_budget": "soft_usd", "budget_duration": "window"}
# Words of LiteLLM's for what a key has none of here: models of its own, or of its team.
_ELSEWHERE = ("all-team-models", "no-default-models")
_ROLES = {"default": "key", "llm_api": "key", "management": "admin", "read_only": "read-only"}
_NAMES = {
    **{f"limits.{ours}": theirs for theirs, ours in _LIMITS.items()},
    **{f"budget.{ours}": theirs for theirs, ours in _BUDGET.items()},
    **{f"metadata.{name}": name for name in ("user_id", "tags")},
    "project": "team_id",
    "expires": "duration",
    "name": "key_alias",
}
# LiteLLM has fields for these, which are kept in the metadata.
_IN_METADATA = ("user_id", "tags")
_KNOWN = {*_LIMITS, *_BUDGET, *_IN_METADATA, "metadata", "models", "team_id", "duration", "blocked"}
_KNOWN |= {"key_type"}

_DURATION = re.compile(r"([1-9][0-9]{0,5})(s|m|h|d|w|mo)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION_WORDS = 'must be like "30s", "30m", "30h", "30d", "2w" or "1mo"'
_WINDOWS = {"total": None, "hour": "1h", "day": "1d", "week": "7d", "month": "1mo"}


def patched(tree: Tree, body: Tree) -> Tree:
    """Settings with what the fields of a request say; a null is the default again.

    Raises InvalidRequest for what cannot be, and for a field of LiteLLM's that would mean
    something and is not served; without a value it is left out of account.
    """
    for name in body.keys() - _KNOWN:
        if body[name]:
            raise unsupported(name, f"'{name}' is not supported by this gateway.")
    result = dict(tree)
    for name, ours in (("team_id", "project"), ("blocked", "blocked")):
        if name in body:
            result[ours] = body[name]
    if "models" in body:
        result["models"] = _models(body["models"])
    if "key_type" in body:
        result["role"] = _role(body["key_type"])
    if "duration" in body:
        result["expires"] = _expires(body["duration"])
    result["limits"] = _limits(result.get("limits"), body)
    result["budget"] = _budget(result.get("budget"), body)
    result["metadata"] = _metadata(result.get("metadata") or {}, body)
    return result


def shown(known: Known, config: Config) -> Tree:
    """A key in LiteLLM's fields, with the limit and the first of the budgets that hold for it."""
    settings = known.settings
    limit, budget = _limit_in_force(settings, config), _budget_in_force(settings, config)
    window = budget.window if budget else "total"
    return {
        "key_name": known.hint,
        "key_alias": known.name,
        "models": [] if settings["models"] == ["*"] else settings["models"],
        "team_id": settings["project"],
        "user_id": settings["metadata"].get("user_id"),
        "expires": settings["expires"],
        "max_budget": budget and budget.usd,
        "soft_budget": budget and budget.soft_usd,
        "budget_duration": _WINDOWS.get(window, window),
        **{theirs: limit and getattr(limit, ours) for theirs, ours in _LIMITS.items()},
        "metadata": settings["metadata"],
        "blocked": settings["blocked"],
        "created_at": None if known.created_ms is None else iso(known.created_ms),
        "created_by": known.created_by,
    }


def _models(models: Any) -> Any:
    if not isinstance(models, list):
        return models or None
    for name in _ELSEWHERE:
        if name in models:
            raise unsupported("models", f"'{name}' is not supported by this gateway.")
    return ["*"] if "all-proxy-models" in models else models or None


def _limit_in_force(settings: Tree, config: Config) -> Limit | None:
    limits = settings["limits"]
    if isinstance(limits, dict):
        return msgspec.convert(limits, Limit)
    return config.limits.get(limits or "default")


def _budget_in_force(settings: Tree, config: Config) -> Budget | None:
    budget = settings["budget"]
    if isinstance(budget, dict | list):
        return msgspec.convert(budget[0] if isinstance(budget, list) else budget, Budget)
    return next(iter(config.budgets.get(budget or "default", ())), None)


@contextmanager
def refusals() -> Iterator[None]:
    """Lets a refusal name LiteLLM's field instead of ours."""
    try:
        yield
    except InvalidRequest as exc:
        for ours, theirs in _NAMES.items():
            exc.message = exc.message.replace(f"{ours}: ", f"{theirs}: ")
        exc.param = _NAMES.get(exc.param, exc.param)
        raise


def seconds(duration: Any, field: str) -> int:
    """How long a duration is from now on; raises InvalidRequest."""
    match = _DURATION.fullmatch(duration) if isinstance(duration, str) else None
    if match is None:
        raise InvalidRequest(f"{field}: {_DURATION_WORDS}", param=field)
    if match[2] != "mo":
        return int(match[1]) * _SECONDS[match[2]]
    now = datetime.now(UTC)
    year, month = divmod(now.year * 12 + now.month - 1 + int(match[1]), 12)
    if year > 9999:
        raise InvalidRequest(f"{field}: {_DURATION_WORDS}", param=field)
    day = min(now.day, monthrange(year, month + 1)[1])
    return (now.replace(year=year, month=month + 1, day=day) - now) // timedelta(seconds=1)


def _expires(duration: Any) -> str | None:
    if duration in (None, "-1"):
        return None
    length_s = seconds(duration, "duration")
    return iso(int(datetime.now(UTC).timestamp() + length_s) * 1000)


def _role(kind: Any) -> str | None:
    if kind is None:
        return None
    if not isinstance(kind, str) or kind not in _ROLES:
        raise InvalidRequest(f"key_type: must be one of {', '.join(_ROLES)}", param="key_type")
    return _ROLES[kind]


def _limits(old: Any, body: Tree) -> Any:
    given = {ours: body[theirs] for theirs, ours in _LIMITS.items() if theirs in body}
    if not given or (isinstance(old, str) and not any(given.values())):
        return old
    limits = {**(old if isinstance(old, dict) else {}), **given}
    left = {name: value for name, value in limits.items() if value is not None}
    return left if left.keys() & _LIMITS.values() else None


def _budget(old: Any, body: Tree) -> Any:
    given = {ours: body[theirs] for theirs, ours in _BUDGET.items() if theirs in body}
    if not given:
        return old
    if isinstance(old, list):
        raise InvalidRequest(
            "max_budget: this key has several budgets, which PATCH /admin/keys changes",
            param="max_budget",
        )
    if "usd" in given and given["usd"] is None:
        return None
    if given.get("window") is not None:
        given["window"] = _window(given["window"])
    budget = {**(old if isinstance(old, dict) else {}), **given}
    budget = {name: value for name, value in budget.items() if value is not None}
    if "usd" not in budget:
        if not any(value is not None for value in given.values()):
            return old
        raise missing("max_budget")
    return {"window": "total", **budget}


def _window(duration: Any) -> str:
    match = _DURATION.fullmatch(duration) if isinstance(duration, str) else None
    if match is not None and match[0] == "1mo":
        return "month"
    if match is not None and match[2] == "w":
        return f"{7 * int(match[1])}d"
    if match is None or match[2] not in ("h", "d"):
        raise InvalidRequest(
            'budget_duration: must be like "1h", "24h", "7d", "2w", or "1mo"',
            param="budget_duration",
        )
    return match[0]


def _metadata(old: Tree, body: Tree) -> Tree:
    metadata = dict(old)
    if "metadata" in body:
        given = body["metadata"] or {}
        if not isinstance(given, dict):
            raise wrong_type("metadata", "an object", given)
        metadata = {name: old[name] for name in _IN_METADATA if name in old} | given
    for name in _IN_METADATA:
        if name in body:
            value = body[name]
            if isinstance(value, list) and all(isinstance(each, str) for each in value):
                value = ",".join(value)
            metadata[name] = value or None
    return {name: value for name, value in metadata.items() if value is not None}
