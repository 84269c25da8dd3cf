"""What operators may ask, as paths of the OpenAPI document: keys, ledger, audit."""

from anos.admin_params import COLUMNS, STATUSES, STEPS
from anos.openapi_parts import (
    KEYED,
    NAMED_AND_SENT,
    STRING,
    TIME,
    VIEWERS,
    Schema,
    array,
    change,
    enum,
    in_path,
    json_answer,
    json_body,
    limit,
    operation,
    query,
    ref,
    view,
)

_NAME = in_path("name", "The key's name.")
_SINCE = query("since", TIME, "From then on; a date will do, and is in UTC without an offset.")
_UNTIL = query("until", TIME, "Before then.")
_AFTER = query("after", STRING, "The `next` of the page before.")
_PROJECT = query("project", STRING, "A project's name; `key:<name>` for a key without one.")
_KEY = query("key", STRING, "A key's name.")
_MODEL = query("model", STRING, "A model's public name.")


_KEYS: dict[str, dict[str, Schema]] = {
    "/admin/keys": {
        "get": view(
            "listKeys",
            "keys",
            "Keys by name",
            json_answer("KeyList", "One page of keys."),
            query("project", STRING, "Only keys of this project."),
            limit(20, 100),
            _AFTER,
        ),
        "post": change(
            "createKey",
            "keys",
            "Make a key",
            json_answer("NewKey", "The key; its text is in this answer and in no other."),
            "CreateKey",
        ),
    },
    "/admin/keys/{name}": {
        "get": view(
            "retrieveKey",
            "keys",
            "One key",
            json_answer("Key", "The key, without its text."),
            _NAME,
            errors=("401", "403", "404", "500"),
        ),
        "patch": change(
            "editKey",
            "keys",
            "Change a key's settings",
            json_answer("Key", "The key as it is from now on."),
            "KeySettings",
            _NAME,
            errors=NAMED_AND_SENT,
            description="A merge patch: what is not in it stays, and `null` is the default again.",
        ),
        "delete": change(
            "deleteKey",
            "keys",
            "End a key for good",
            json_answer("DeletedKey", "It is gone, and its name is never given again."),
            "",
            _NAME,
            errors=("400", *KEYED, "404"),
        ),
    },
    "/admin/keys/{name}/rotate": {
        "post": change(
            "rotateKey",
            "keys",
            "Give a key a new text",
            json_answer("NewKey", "The key; its new text is in this answer and in no other."),
            "RotateKey",
            _NAME,
            errors=NAMED_AND_SENT,
            needs_body=False,
        )
    },
    **{
        f"/admin/keys/{{name}}/{action}": {
            "post": change(
                f"{action}Key",
                "keys",
                summary,
                json_answer("Key", "The key as it is from now on."),
                "",
                _NAME,
                errors=("400", *KEYED, "404"),
            )
        }
        for action, summary in (
            ("block", "Refuse a key until it is unblocked"),
            ("unblock", "Accept a blocked key again"),
        )
    },
}

_LEDGER: dict[str, dict[str, Schema]] = {
    "/admin/spend": {
        "get": view(
            "readSpend",
            "ledger",
            "Requests, tokens and dollars, summed",
            json_answer("Spend", "A row for each group that had requests."),
            query(
                "group_by",
                {**STRING, "default": "day"},
                f"Some of {', '.join((*COLUMNS, *STEPS))}, with commas, and at most "
                "one of the last three.",
            ),
            query("since", TIME, "The last 30 days if absent; moved to a quarter of an hour."),
            query("until", TIME, "Now if absent; moved to a quarter of an hour."),
            query("time_zone", {**STRING, "default": "UTC"}, "Whose hours, days and months."),
            _KEY,
            _PROJECT,
            _MODEL,
        )
    },
    "/admin/requests": {
        "get": view(
            "listRequests",
            "ledger",
            "Rows of the ledger, newest first",
            json_answer("ExchangeList", "One page; a short one may have a next, too."),
            _KEY,
            _PROJECT,
            _MODEL,
            query(
                "status",
                {**STRING, "pattern": "^([0-9]{3}|[1-5]xx)$"},
                "An HTTP status like `429`, or a class like `5xx`; 499: the client left.",
            ),
            query("route", STRING, "A path template like `/v1/responses/{id}`."),
            _SINCE,
            _UNTIL,
            query("response_id", STRING, "What made this response, or named it."),
            query(
                "request_id",
                STRING,
                "The newest with this `x-request-id`; only `limit` may stand beside it.",
            ),
            limit(20, 1000),
            _AFTER,
        )
    },
    "/admin/requests/{id}": {
        "get": view(
            "explainRequest",
            "ledger",
            "Everything about one request",
            json_answer("ExchangeInFull", "In the order a request goes through the gateway."),
            in_path("id", "Its `x-request-id`, or its `seq`."),
            errors=("400", *KEYED, "404"),
        )
    },
    "/admin/explain": {
        "post": operation(
            "explainCall",
            "ledger",
            "What would become of a call",
            json_answer("Explanation", "Nothing was counted, held or sent."),
            NAMED_AND_SENT,
            description=VIEWERS,
            requestBody=json_body("Explain"),
        )
    },
    "/admin/responses": {
        "get": view(
            "listStoredResponses",
            "ledger",
            "Stored responses, newest first, without what they say",
            json_answer("StoredResponseList", "One page of stored responses."),
            _PROJECT,
            _MODEL,
            query("status", enum(*STATUSES), "Only responses of this status."),
            _SINCE,
            limit(20, 1000),
            _AFTER,
        )
    },
    "/admin/inflight": {
        "get": view(
            "listRuns",
            "ledger",
            "The calls that run now, the oldest first",
            json_answer("RunList", "All of them."),
        )
    },
    "/admin/events": {
        "get": view(
            "watch",
            "ledger",
            "Every request as it ends, and every change",
            {
                "description": "The `data` of events named `exchange`, `change` and `dropped`.",
                "content": {"text/event-stream": {"schema": ref("OperatorEvent")}},
            },
        )
    },
    "/admin/spend/recompute": {
        "post": change(
            "recomputeSpend",
            "ledger",
            "Correct costs to the present prices",
            json_answer("Recomputed", "What was corrected; asked again, nothing is."),
            "Recompute",
        )
    },
}

_AUDIT: dict[str, dict[str, Schema]] = {
    "/admin/audit/verify": {
        "get": view(
            "verifyLogs",
            "audit",
            "Whether the logs are as they were written",
            json_answer("AuditReport", "What was found in each log."),
            query(
                "head",
                array({**STRING, "pattern": "^((exchanges|changes):)?[0-9]+:[0-9a-fA-F]{64}$"}),
                "LOG:SEQ:HEX of an earlier report, for each log.",
            ),
        )
    },
    "/admin/audit/export": {
        "get": view(
            "exportLog",
            "audit",
            "A log's rows, streamed",
            {
                "description": "A row on each line.",
                "content": {
                    "application/jsonl": {"schema": ref("ExportedRow")},
                    "text/csv": {"schema": STRING},
                },
            },
            query("format", {**enum("jsonl", "csv"), "default": "jsonl"}, "How rows are written."),
            query("log", {**enum("exchanges", "changes"), "default": "exchanges"}, "Which log."),
            _SINCE,
            _UNTIL,
        )
    },
    "/admin/changes": {
        "get": view(
            "listChanges",
            "audit",
            "What operators changed, newest first",
            json_answer("ChangeList", "One page of changes."),
            query("object", STRING, "Only changes of this, like `key:web` or `config`."),
            limit(100, 1000),
            _AFTER,
        )
    },
    "/admin/backup": {
        "post": change(
            "backUp",
            "audit",
            "Copy the database to a new file beside it",
            json_answer("BackedUp", "The copy is complete."),
            "BackUp",
        )
    },
    "/admin/integrity": {
        "post": change(
            "checkFile",
            "audit",
            "Have SQLite check the whole file",
            json_answer("Integrity", "What it found."),
        )
    },
    "/admin/reload": {
        "post": change(
            "reload",
            "operation",
            "Read the configuration again",
            json_answer("Reloaded", "What has changed; on a fault (400) the last good one stays."),
            errors=("400", "401", "403", "500"),
        )
    },
}

PATHS = {**_KEYS, **_LEDGER, **_AUDIT}
