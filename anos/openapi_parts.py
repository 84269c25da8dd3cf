"""The words that the OpenAPI document is written in: schemas, parameters, answers, operations.

https://json-schema.org/draft/2020-12
"""

from typing import Any, get_args

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
BOOLEAN: Schema = {"type": "boolean"}
OBJECT: Schema = {"type": "object"}
NULL: Schema = {"type": "null"}
TIME: Schema = {"type": "string", "format": "date-time"}


# The errors of operators' routes: with a query, with a body, and with a body and a name.
KEYED = ("401", "403", "500", "503")
QUERIED = ("400", *KEYED)
SENT = ("400", "401", "403", "408", "413", "415", "500", "503")
NAMED_AND_SENT = ("400", "401", "403", "404", "408", "413", "415", "500", "503")

EVERY_KEY = "For every key."
VIEWERS = "For the roles `admin` and `read-only`."
OPERATORS = "For the role `admin`."


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def shape(required: dict[str, Schema], **optional: Schema) -> Schema:
    """An object; fields that are not named may be there too."""
    return {
        "type": "object",
        "properties": {**required, **optional},
        "required": list(required),
    }


def array(of: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": of, **more}


def enum(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


def literal(values: Any) -> Schema:
    """The values of a `Literal`."""
    return enum(*get_args(values))


def const(value: str) -> Schema:
    return {"type": "string", "const": value}


def between(low: float, high: float, kind: str = "number") -> Schema:
    return {"type": kind, "minimum": low, "maximum": high}


def or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, NULL]}


def optional(fields: dict[str, Schema]) -> dict[str, Schema]:
    """Each of the fields may be null."""
    return {name: or_null(schema) for name, schema in fields.items()}


def query(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def limit(default: int, most: int) -> Schema:
    schema = {**between(1, most, "integer"), "default": default}
    return query("limit", schema, "Rows on a page.")


def in_path(name: str, description: str = "") -> Schema:
    parameter = {"name": name, "in": "path", "required": True, "schema": STRING}
    return {**parameter, "description": description} if description else parameter


def json_answer(schema: Schema | str, description: str) -> Schema:
    """An answer in JSON; `schema` or the name of one."""
    schema = ref(schema) if isinstance(schema, str) else schema
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def json_body(schema: str, *, required: bool = True) -> Schema:
    return {"required": required, "content": {"application/json": {"schema": ref(schema)}}}


def operation(
    name: str, tag: str, summary: str, answer: Schema, errors: tuple[str, ...], **more: Any
) -> Schema:
    """One method of a path; `errors` are statuses."""
    failures = {status: {"$ref": f"#/components/responses/{status}"} for status in errors}
    return {
        "operationId": name,
        "tags": [tag],
        "summary": summary,
        **more,
        "responses": {"200": answer, **failures},
    }


def view(
    name: str,
    tag: str,
    summary: str,
    answer: Schema,
    *parameters: Schema,
    errors: tuple[str, ...] = QUERIED,
) -> Schema:
    """What operators look at."""
    more = {"parameters": list(parameters)} if parameters else {}
    return operation(name, tag, summary, answer, errors, description=VIEWERS, **more)


def change(
    name: str,
    tag: str,
    summary: str,
    answer: Schema,
    body: str = "",
    *parameters: Schema,
    errors: tuple[str, ...] = SENT,
    description: str = "",
    needs_body: bool = True,
) -> Schema:
    """What operators change; `body` is the name of a schema."""
    more: dict[str, Any] = {"parameters": list(parameters)} if parameters else {}
    if body:
        more["requestBody"] = json_body(body, required=needs_body)
    words = f"{description} {OPERATORS}".strip()
    return operation(name, tag, summary, answer, errors, description=words, **more)
