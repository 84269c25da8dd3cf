"""How one exchange of the ledger is shown to operators: as a line of a list, and in full."""

from collections.abc import Mapping
from typing import Any

import orjson

from anos.admin_params import iso, usd
from anos.queries import Told

# What a line is made of.
COLUMNS = (
    "seq",
    "request_id",
    "response_id",
    "started_ms",
    "duration_us",
    "key",
    "project",
    "method",
    "route",
    "model",
    "provider",
    "deployment",
    "status",
    "finish",
    "error_code",
    "input_tokens",
    "output_tokens",
    "cost",
    "corrects",
)


def summary(row: Mapping[str, Any]) -> dict[str, Any]:
    """The line of an exchange, from its COLUMNS."""
    return {
        "object": "request",
        "seq": row["seq"],
        "id": row["request_id"],
        "at": iso(row["started_ms"]),
        "key": row["key"],
        "project": row["project"],
        "method": row["method"],
        "route": row["route"],
        "status": row["status"],
        "error_code": row["error_code"],
        "finish": row["finish"],
        "response_id": row["response_id"],
        "model": row["model"],
        "provider": row["provider"],
        "deployment": row["deployment"],
        "input_tokens": row["input_tokens"],
        "output_tokens": row["output_tokens"],
        "cost_usd": usd(row["cost"]),
        "duration_ms": row["duration_us"] / 1000,
        "corrects": row["corrects"],
    }


def explained(found: Told) -> dict[str, Any]:
    """An exchange in full; its sections are in the order a request goes through them."""
    row = found.row
    cost = (row["cost"] or 0) + sum(each["cost"] for each in found.corrections)
    overhead_us = row["overhead_us"]
    return {
        "object": "request",
        "seq": row["seq"],
        "id": row["request_id"],
        "others": found.others,
        "method": row["method"],
        "path": row["route"],
        "status": row["status"],
        "error_code": row["error_code"],
        "finish": row["finish"],
        "response_id": row["response_id"],
        "corrects": row["corrects"],
        "key": {"name": row["key"], "project": row["project"], "client": row["client"]},
        "limits": {"counted": bool(row["counted"])},
        "guards": orjson.loads(row["guards"] or "[]"),
        "route": {
            "model": row["model"],
            "provider": row["provider"],
            "deployment": row["deployment"],
        },
        "attempts": {"count": row["attempts"], "failed": orjson.loads(row["failures"] or "[]")},
        "bytes": {"request": row["request_bytes"], "response": row["response_bytes"]},
        "tokens": {
            "input": row["input_tokens"],
            "cached": row["cached_tokens"],
            "cache_write": row["cache_write_tokens"],
            "output": row["output_tokens"],
            "reasoning": row["reasoning_tokens"],
            "source": row["usage_source"],
        },
        "cost": {
            "reserved_usd": usd(row["reserved"]),
            "settled_usd": usd(row["cost"]),
            "corrections": [
                {
                    "seq": each["seq"],
                    "at": iso(each["started_ms"]),
                    "cost_usd": usd(each["cost"]),
                }
                for each in found.corrections
            ],
            "total_usd": None if row["cost"] is None and not found.corrections else cost / 1e6,
            "charged_at": iso(row["charged_ms"]),
        },
        "timing": {
            "started_at": iso(row["started_ms"]),
            "first_byte_ms": _ms(row["first_byte_us"]),
            "upstream_ms": None if overhead_us is None else _ms(row["duration_us"] - overhead_us),
            "overhead_ms": _ms(overhead_us),
            "duration_ms": _ms(row["duration_us"]),
        },
    }


def _ms(us: int | None) -> float | None:
    return None if us is None else us / 1000
