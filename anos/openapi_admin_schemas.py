"""The shapes of what operators send and are answered, as JSON Schemas for the OpenAPI document."""

from anos.admin_params import COLUMNS, STATUSES, STEPS
from anos.openapi_parts import (
    BOOLEAN,
    INTEGER,
    NULL,
    NUMBER,
    OBJECT,
    STRING,
    TIME,
    Schema,
    array,
    between,
    const,
    enum,
    optional,
    or_null,
    ref,
    shape,
)


def schemas() -> dict[str, Schema]:
    """Every schema by its name under `#/components/schemas`."""
    return {**_keys(), **_ledger(), **_explanation(), **_audit()}


def _page(of: str) -> Schema:
    return shape(
        {
            "object": const("list"),
            "data": array(ref(of)),
            "has_more": BOOLEAN,
            "next": or_null(STRING),
        }
    )


# --- keys -----------------------------------------------------------------------------------------


def _keys() -> dict[str, Schema]:
    settings = {
        "models": array(STRING, minItems=1),
        "project": or_null(STRING),
        "role": enum("key", "read-only", "admin"),
        "limits": {"anyOf": [STRING, ref("Limit"), NULL]},
        "budget": {"anyOf": [STRING, ref("Budget"), array(ref("Budget")), NULL]},
        "guards": STRING,
        "bodies": enum("off", "hashed", "full"),
        "expires": or_null(TIME),
        "blocked": BOOLEAN,
        "metadata": {"type": "object", "additionalProperties": STRING},
    }
    # In a merge patch a null within takes that field away.
    patch = {**settings, "limits": {"anyOf": [STRING, OBJECT]}, "metadata": OBJECT}
    known = {
        "object": const("key"),
        "name": STRING,
        "source": enum("config", "api"),
        "hint": {**STRING, "description": "The key's end, as far as it may be shown."},
        **settings,
        "created_at": or_null(TIME),
        "created_by": or_null(STRING),
        "old_key_until": or_null(TIME),
        "fault": or_null(STRING),
    }
    return {
        "CreateKey": shape(
            {"name": {**STRING, "pattern": "^[A-Za-z0-9._@-]{1,64}$"}},
            key=or_null({**STRING, "pattern": "^[!-~]{1,4096}$"}),
            **optional(settings),
        ),
        "KeySettings": shape({}, **optional(patch)),
        "RotateKey": shape({}, overlap_s=between(0, 31_536_000)),
        "Key": shape(known),
        "NewKey": shape({**known, "key": STRING}),
        "KeyList": _page("Key"),
        "DeletedKey": shape({"object": const("key"), "name": STRING, "deleted": {"const": True}}),
        "Limit": shape(
            {},
            requests_per_minute=between(1, 1_000_000, "integer"),
            tokens_per_minute={**INTEGER, "minimum": 1},
            concurrent=between(1, 1_000_000, "integer"),
            queue=shape({}, size=INTEGER, wait_s=between(0, 600)),
        ),
        "Budget": shape(
            {"usd": NUMBER, "window": STRING},
            soft_usd=or_null(NUMBER),
            time_zone=STRING,
        ),
    }


# --- the ledger -----------------------------------------------------------------------------------

_COUNTS = dict.fromkeys(
    ("requests", "failed", "input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens"),
    INTEGER,
)
_SUMS = {**_COUNTS, "cost_usd": NUMBER}


def _ledger() -> dict[str, Schema]:
    line = {
        "object": const("request"),
        "seq": or_null(INTEGER),
        "id": STRING,
        "at": TIME,
        "key": STRING,
        "project": STRING,
        "method": STRING,
        "route": STRING,
        "status": INTEGER,
        **optional(dict.fromkeys(("error_code", "finish", "response_id"), STRING)),
        **optional(dict.fromkeys(("model", "provider", "deployment"), STRING)),
        **optional(dict.fromkeys(("input_tokens", "output_tokens"), INTEGER)),
        "cost_usd": or_null(NUMBER),
        "duration_ms": NUMBER,
        "corrects": or_null(INTEGER),
    }
    return {
        "Spend": shape(
            {
                "object": const("list"),
                "since": TIME,
                "until": TIME,
                "time_zone": STRING,
                "data": array(
                    shape(
                        _SUMS,
                        **dict.fromkeys(STEPS, TIME),
                        **dict.fromkeys(COLUMNS, STRING),
                    )
                ),
                "totals": shape(_SUMS),
                "has_more": {"const": False},
                "next": NULL,
            }
        ),
        "Exchange": shape(line),
        "ExchangeList": _page("Exchange"),
        "ExchangeInFull": _in_full(),
        **_live(),
        "Recompute": shape({"since": TIME}, until=or_null(TIME), model=or_null(STRING)),
        "Recomputed": shape(
            {
                "object": const("spend.recompute"),
                "since": TIME,
                "until": TIME,
                "model": or_null(STRING),
                **dict.fromkeys(("requests", "corrected", "unpriced"), INTEGER),
                "difference_usd": NUMBER,
            }
        ),
    }


def _live() -> dict[str, Schema]:
    return {
        "StoredResponse": shape(
            {
                "object": const("response"),
                "id": STRING,
                "project": STRING,
                "model": STRING,
                "status": enum(*STATUSES),
                "background": BOOLEAN,
                "previous_response_id": or_null(STRING),
                "created_at": TIME,
                "completed_at": or_null(TIME),
                "input_items": INTEGER,
                "output_items": INTEGER,
            }
        ),
        "StoredResponseList": _page("StoredResponse"),
        "Run": shape(
            {
                "object": const("run"),
                **dict.fromkeys(("id", "request_id", "key", "project", "route"), STRING),
                **optional(dict.fromkeys(("model", "provider", "deployment"), STRING)),
                "started_at": TIME,
                "elapsed_ms": INTEGER,
                "background": BOOLEAN,
                "stream": BOOLEAN,
            }
        ),
        "RunList": _page("Run"),
        "OperatorEvent": {
            "anyOf": [ref("Exchange"), ref("Change"), shape({"count": {**INTEGER, "minimum": 1}})]
        },
    }


def _in_full() -> Schema:
    words = dict.fromkeys(("provider", "deployment", "code", "message"), STRING)
    attempt = {**words, "status": INTEGER}
    correction = {"seq": INTEGER, "at": TIME, "cost_usd": NUMBER}
    counts = ("input", "cached", "cache_write", "output", "reasoning")
    times = ("first_byte_ms", "upstream_ms", "overhead_ms", "duration_ms")
    return shape(
        {
            "object": const("request"),
            "seq": INTEGER,
            "id": STRING,
            "others": array(INTEGER, description="The `seq` of others with this id."),
            "method": STRING,
            "path": STRING,
            "status": INTEGER,
            **optional(dict.fromkeys(("error_code", "finish", "response_id"), STRING)),
            "corrects": or_null(INTEGER),
            "key": shape({"name": STRING, "project": STRING, "client": or_null(STRING)}),
            "limits": shape({"counted": BOOLEAN}),
            "guards": array(OBJECT, description="A receipt of each guard that looked."),
            "route": shape(optional(dict.fromkeys(("model", "provider", "deployment"), STRING))),
            "attempts": shape({"count": INTEGER, "failed": array(shape(attempt, ms=INTEGER))}),
            "bytes": shape(optional(dict.fromkeys(("request", "response"), INTEGER))),
            "tokens": shape(
                optional({**dict.fromkeys(counts, INTEGER), "source": STRING}),
            ),
            "cost": shape(
                {
                    "reserved_usd": or_null(NUMBER),
                    "settled_usd": or_null(NUMBER),
                    "corrections": array(shape(correction)),
                    "total_usd": or_null(NUMBER),
                    "charged_at": or_null(TIME),
                }
            ),
            "timing": shape({"started_at": TIME, **optional(dict.fromkeys(times, NUMBER))}),
        }
    )


def _explanation() -> dict[str, Schema]:
    left = or_null(shape({"limit": INTEGER, "remaining": INTEGER}))
    asked = {
        "key": {**STRING, "description": "A key's name."},
        "model": ref("ModelName"),
        "input": {"anyOf": [STRING, array(ref("InputItem"))]},
    }
    key = {
        **dict.fromkeys(("name", "project", "role", "bodies"), STRING),
        "models": array(STRING),
        "blocked": BOOLEAN,
        "expires_at": or_null(TIME),
    }
    route = {**dict.fromkeys(("provider", "deployment", "dialect"), STRING), "priced": BOOLEAN}
    budget = {
        **dict.fromkeys(("account", "window", "time_zone"), STRING),
        **dict.fromkeys(("usd", "remaining_usd"), NUMBER),
        "soft_usd": or_null(NUMBER),
        "resets_at": or_null(TIME),
    }
    limits = dict.fromkeys(("requests_per_minute", "tokens_per_minute", "concurrent"), left)
    bound = {"input_tokens": INTEGER, "output_tokens": INTEGER, "cost_usd": NUMBER}
    return {
        "Explain": shape(asked, max_output_tokens=or_null({**INTEGER, "minimum": 1})),
        "Explanation": shape(
            {
                "object": const("explanation"),
                "admitted": BOOLEAN,
                "status": INTEGER,
                "error": or_null(ref("ErrorBody")),
                "key": shape(key),
                "limits": array(shape({"scope": STRING, **limits})),
                "guards": array(OBJECT, description="What each guard thinks of it."),
                "routes": array(shape(route)),
                "bound": or_null(shape(bound)),
                "budgets": array(shape(budget)),
            }
        ),
    }


# --- audit ----------------------------------------------------------------------------------------


def _audit() -> dict[str, Schema]:
    log = enum("exchanges", "changes")
    broken = {"seq": INTEGER, "why": STRING, "sentence": STRING}
    report = {
        "log": log,
        "ok": BOOLEAN,
        **optional(dict.fromkeys(("first", "last", "foreign_through"), INTEGER)),
        **dict.fromkeys(("verified", "older", "foreign", "checkpoints"), INTEGER),
        "head": STRING,
        "compared": or_null(enum("same", "gone")),
        "broken": or_null(shape(broken)),
    }
    anything: Schema = {}
    change = dict.fromkeys(("actor", "request_id", "action", "object"), STRING)
    return {
        "AuditReport": shape(
            {
                "object": const("audit.report"),
                "ok": BOOLEAN,
                "logs": array(shape(report)),
                "not_detected": array(STRING),
            }
        ),
        "ExportedRow": {
            **shape({"seq": INTEGER, "request_id": STRING, "digest": or_null(STRING)}),
            "description": "The other columns of the log are there, too.",
            "additionalProperties": True,
        },
        "Change": shape({"at": TIME, **change, "before": anything, "after": anything}, seq=INTEGER),
        "ChangeList": _page("Change"),
        "BackUp": shape({"file": {**STRING, "description": "A plain name, of no file yet."}}),
        "BackedUp": shape({"file": STRING, "bytes": INTEGER, "exchanges": INTEGER}),
        "Integrity": shape({"ok": BOOLEAN, "problems": array(STRING)}),
        "Reloaded": shape({"changed": array(STRING)}),
    }
