"""The handler of /v1/moderations.

API: https://platform.openai.com/docs/api-reference/moderations/create
"""

import asyncio
import uuid
from typing import Any

import orjson
from aiohttp import web

from anos import admission
from anos.decoding import decode_body
from anos.errors import InvalidRequest, UpstreamError, UpstreamTimeout
from anos.intake import read_body
from anos.moderation import Judgement, Moderator
from anos.state import EXCHANGE, SERVING
from anos.validation import check_shape, missing, unsupported, wrong_type

# What answers when a request names no model, and none is configured.
BUILTIN_MODEL = "anos-builtin"
# As many texts as OpenAI takes.
_MAX_INPUTS = 1024


async def create(request: web.Request) -> web.Response:
    """POST /v1/moderations: the back end of the key's guards, or the built-in rules.

    It counts against limits as a model call does. A model that judges is not for keys with a
    budget: nothing is held for it.
    """
    gateway, exchange = request[SERVING], request[EXCHANGE]
    live, caller = gateway.live, exchange.caller
    assert caller is not None  # the route is not public
    tree = decode_body(await read_body(request))
    named = tree.get("model")
    if named is not None and type(named) is not str:
        raise wrong_type("model", "a string", named)
    texts = read_input(tree)
    moderator = live.profiles[caller.guards].moderator or Moderator()
    if moderator.backend == "model" and gateway.ledger.has_budget(exchange):
        raise InvalidRequest(
            "A budget holds for this key, and what the model that moderates costs is not known.",
            param="model",
            code="unpriced_model",
        )
    await admission.meter(gateway, exchange, caller, caller.scopes)
    judgements = await asyncio.gather(*[moderator.judge(text, "user") for text in texts])
    body = {
        "id": f"modr-{uuid.uuid4().hex}",
        "model": moderator.model or BUILTIN_MODEL,
        "results": [_result(judgement) for judgement in judgements],
    }
    return web.Response(body=orjson.dumps(body), content_type="application/json")


def read_input(tree: dict[str, Any]) -> list[str]:
    """The texts of `input`, one for each result; all text parts together are one.

    Raises InvalidRequest for anything else, images included.
    """
    given = tree.get("input")
    if given is None:
        raise missing("input")
    if type(given) is str:
        return [given]
    if type(given) is not list:
        raise wrong_type("input", "a string or an array", given)
    if not 1 <= len(given) <= _MAX_INPUTS:
        raise InvalidRequest(
            f"Invalid value for 'input': expected 1 to {_MAX_INPUTS} elements.", param="input"
        )
    if type(given[0]) is dict:
        return ["\n\n".join([_text_of(part, f"input[{at}]") for at, part in enumerate(given)])]
    return [check_shape(text, str, f"input[{at}]") for at, text in enumerate(given)]


def _text_of(part: Any, where: str) -> str:
    if type(part) is not dict:
        raise wrong_type(where, "an object", part)
    if part.get("type") == "image_url":
        raise unsupported(where, "Images are not moderated by this gateway.")
    if part.get("type") != "text":
        raise InvalidRequest(
            f"Invalid value for '{where}.type': expected 'text'.", param=f"{where}.type"
        )
    if "text" not in part:
        raise missing(f"{where}.text")
    return check_shape(part["text"], str, f"{where}.text")


def _result(judgement: Judgement) -> dict[str, Any]:
    """One of `results`. Raises UpstreamError if the back end could not be asked."""
    if judgement.error:
        kind = UpstreamTimeout if judgement.error == "timeout" else UpstreamError
        raise kind("The moderation of this gateway did not answer.")
    names = judgement.scores.keys()
    return {
        "flagged": bool(judgement.violated),
        "categories": {name: name in judgement.violated for name in names},
        "category_scores": judgement.scores,
        "category_applied_input_types": {name: ["text"] for name in names},
    }
