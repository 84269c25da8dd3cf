"""Rows that tests write into the ledger by themselves."""

from typing import Any

from anos.schema import ExchangeRecord


def exchange(**changes: Any) -> ExchangeRecord:
    """A call of the key ci that was answered."""
    values: dict[str, Any] = {
        "request_id": "req",
        "started_ms": 1,
        "duration_us": 1,
        "key": "ci",
        "project": "key:ci",
        "method": "POST",
        "route": "/v1/responses",
        "status": 200,
        "model": "gpt-4",
    }
    return ExchangeRecord(**(values | changes))
