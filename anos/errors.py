"""Every refusal and failure a caller can be told about, and the one JSON shape they are told in.

    GatewayError                500  server_error           server_error
      InvalidRequest            400  invalid_request_error  invalid_value
        InvalidModel            400  invalid_request_error  400 (number), param "model"
      Unauthorized              401  invalid_request_error  invalid_api_key
      Forbidden                 403  invalid_request_error  permission_denied
      NotFound                  404  invalid_request_error  not_found
      MethodNotAllowed          405  invalid_request_error  method_not_allowed
      RequestTimeout            408  invalid_request_error  request_timeout
      BodyTooLarge              413  invalid_request_error  request_too_large
      UnsupportedMedia          415  invalid_request_error  unsupported_media_type
      Misdirected               421  invalid_request_error  misdirected_request
      HeadTooLarge              431  invalid_request_error  request_header_fields_too_large
      GuardBlocked              400  content_filter_error   400 (number)
      RateLimited               429  rate_limit_error       429 (number)
      BudgetExceeded            429  budget_exceeded        insufficient_quota
      Unavailable               503  server_error           service_unavailable
      UpstreamError             502  upstream_error         upstream_error
        UpstreamTimeout         504  upstream_error         upstream_timeout

The message is a sentence for the caller. It never holds a credential, a prompt or an answer.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

# Three errors have the numbers of the guide; everywhere else it is OpenAI's string.
Code = str | int


class GatewayError(Exception):
    """A failure with an HTTP answer; the class gives the defaults, the instance may say more.

    `headers` go into the HTTP answer: `Retry-After`, `x-should-retry`, `Allow`, `x-ratelimit-*`.
    """

    status = 500
    type = "server_error"
    code: Code = "server_error"
    message = "The gateway met an internal error."
    param = ""

    def __init__(
        self,
        message: str = "",
        *,
        param: str = "",
        code: Code | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.message = message or self.message
        super().__init__(self.message)
        self.param = param or self.param
        self.code = self.code if code is None else code
        self.headers: dict[str, str] = dict(headers or {})


class InvalidRequest(GatewayError):
    """The request itself is wrong; `param` is the path of the field, like `input[2].content`."""

    status = 400
    type = "invalid_request_error"
    code: Code = "invalid_value"
    message = "The request is not valid."


class InvalidModel(InvalidRequest):
    """The body names a model no route serves."""

    code = 400
    message = "Invalid model specified"
    param = "model"


class Unauthorized(GatewayError):
    """No key, an unknown key, or two different ones; what was sent is never repeated."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"
    message = "Incorrect API key provided."


class Forbidden(GatewayError):
    """A known key that may not do this, for example use this model."""

    status = 403
    type = "invalid_request_error"
    code = "permission_denied"
    message = "This API key may not do that."


class NotFound(GatewayError):
    """Nothing of that name for this caller; another owner's thing is answered the same way."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"
    message = "Nothing was found at this address."


class MethodNotAllowed(GatewayError):
    """The path exists under other methods, which the `Allow` header lists."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"
    message = "This path does not answer that method."


class RequestTimeout(GatewayError):
    """The client was too slow sending its request."""

    status = 408
    type = "invalid_request_error"
    code = "request_timeout"
    message = "The request did not arrive in time."


class BodyTooLarge(GatewayError):
    """The body is over the limit, before or after it was inflated."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"
    message = "The request body is too large."


class UnsupportedMedia(GatewayError):
    """A content type or content encoding that is not read here."""

    status = 415
    type = "invalid_request_error"
    code = "unsupported_media_type"
    message = "The request body has an unsupported type or encoding."


class Misdirected(GatewayError):
    """A Host this gateway does not serve (the guard against DNS rebinding)."""

    status = 421
    type = "invalid_request_error"
    code = "misdirected_request"
    message = (
        "The master key sk-1234 is public, and so this gateway answers on this machine only, "
        "as localhost. Give it a master key of your own to use another name."
    )


class HeadTooLarge(GatewayError):
    """A line of the request's head is over the limit: a header, or the target."""

    status = 431
    type = "invalid_request_error"
    code = "request_header_fields_too_large"
    message = "A header of the request, or its target, is too long."


class GuardBlocked(GatewayError):
    """A guard refused the content; which rule it was stays inside."""

    status = 400
    type = "content_filter_error"
    code = 400
    message = "Content violates usage policies"


class RateLimited(GatewayError):
    """A limit is used up; the headers say when to come back."""

    status = 429
    type = "rate_limit_error"
    code = 429
    message = "Rate limit exceeded"


class BudgetExceeded(GatewayError):
    """A budget has not enough left for what this call may cost; to ask again soon is useless."""

    status = 429
    type = "budget_exceeded"
    code = "insufficient_quota"
    message = "Budget has been exceeded!"


class Unavailable(GatewayError):
    """The gateway cannot serve this now: a failed store, a full queue, shutting down."""

    status = 503
    code = "service_unavailable"
    message = "The gateway cannot serve this request now."


class Said(NamedTuple):
    """How an upstream itself refused, for operators: a client may be told otherwise."""

    status: int
    code: str
    message: str


class UpstreamError(GatewayError):
    """The upstream failed or refused; `status` and `type` may carry its own answer on."""

    status = 502
    type = "upstream_error"
    code = "upstream_error"
    message = "The upstream failed."
    said: Said | None = None

    def __init__(
        self,
        message: str = "",
        *,
        status: int | None = None,
        type: str = "",
        param: str = "",
        code: Code | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, param=param, code=code, headers=headers)
        self.status = self.status if status is None else status
        self.type = type or self.type


class UpstreamTimeout(UpstreamError):
    """The upstream did not connect, begin or go on in time."""

    status = 504
    code = "upstream_timeout"
    message = "The upstream did not answer in time."


_is_word = re.compile(r"[A-Za-z0-9_.\[\]-]{1,128}").fullmatch


def word_of(value: object) -> str:
    """An upstream's code, type, reason or path; "" for what is none: it is not read as a text."""
    text = str(value) if isinstance(value, str | int) else ""
    return text if _is_word(text) else ""


# What upstreams call an error that is about the gateway's key, whatever its status.
_KEY_ERRORS = frozenset({"invalid_api_key", "authentication_error"})
# The status that a code or a type asks for, where an error comes without one.
_STATUS_OF = {
    **dict.fromkeys(_KEY_ERRORS, 401),
    **dict.fromkeys(("invalid_request_error", "context_length_exceeded", "invalid_prompt"), 400),
    **dict.fromkeys(("rate_limit_exceeded", "rate_limit_error", "insufficient_quota"), 429),
    "400": 400,
    "429": 429,
}


def reported(error: Any) -> UpstreamError:
    """The failure an upstream reports in place of an answer or a chunk."""
    error = error if isinstance(error, dict) else {"message": error}
    message = error.get("message")
    code, kind = word_of(error.get("code")), word_of(error.get("type"))
    status = _STATUS_OF.get(code) or _STATUS_OF.get(kind) or 502
    return refused(
        status,
        message if isinstance(message, str) and message else UpstreamError.message,
        type=kind if kind != "error" and status != 502 else "",
        param=word_of(error.get("param")),
        code=code,
    )


def refused(
    status: int,
    message: str,
    *,
    type: str,
    param: str,
    code: str,
    headers: Mapping[str, str] | None = None,
) -> UpstreamError:
    """An upstream's refusal as the client is told of it; one of the gateway's key is not its own.

    A quota that is used up is so the next time too: clients are told not to ask again.
    """
    if status == 401 or not _KEY_ERRORS.isdisjoint((code, type)):
        return UpstreamError(
            "The upstream refused the gateway's own credentials.", code="upstream_auth_error"
        )
    headers = dict(headers or {})
    if status == 429 and "insufficient_quota" in (code, type):
        headers["x-should-retry"] = "false"
    kind = "rate_limit_error" if status == 429 else "invalid_request_error"
    if status >= 500:
        kind = UpstreamError.type
    return UpstreamError(
        message,
        status=status,
        type=type or kind,
        param=param,
        code=code or "upstream_error",
        headers=headers,
    )


def envelope(exc: GatewayError) -> dict[str, Any]:
    """The JSON body of an error; always all four fields, `param` "" if none applies."""
    return {
        "error": {
            "message": exc.message,
            "type": exc.type,
            "param": exc.param,
            "code": exc.code,
        }
    }
