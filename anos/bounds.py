"""How many tokens an upstream can count for a request, at most: what a budget has to hold."""

import re

from anos.errors import InvalidRequest
from anos.routing import Route

# Quotes in a user's text are escaped, so these are members of the request and nothing else.
_IMAGES = re.compile(rb'"type":"(?:input_image|image_url|computer_screenshot)"')
_FILES = re.compile(rb'"type":"(?:input_file|file)"')
_DATA = re.compile(rb'"(?:data:[^"]*|file_data":"[^"]*)"')
_MEDIA = (b'"input_image"', b'"image_url"', b"_screenshot", b'"input_file"', b'"file"', b"_audio")
_AUDIO = b'"type":"input_audio"'
_TIER = re.compile(rb'"service_tier":"(?!auto"|default"|flex")')


def input_bound(body: bytes, route: Route) -> int:
    """Tokens of input in the body of an upstream's request.

    A token of a byte-level tokenizer is at least a byte, and the JSON around the texts is longer
    than what a chat template puts there. Images and files count as the model's configuration says.
    Raises InvalidRequest (`unsupported_parameter`) for what has no known price.
    """
    if b'"service_tier":' in body and _TIER.search(body):
        raise unpriced("service_tier", "this service tier")
    # To look for a few words costs a tenth of what the expressions do.
    if not any(word in body for word in _MEDIA):
        return len(body)
    if _AUDIO in body:
        raise unpriced("input", "audio")
    images = len(_IMAGES.findall(body))
    files = len(_FILES.findall(body))
    if images and not route.max_image_tokens:
        raise unpriced("input", "an image")
    if files and not route.max_file_tokens:
        raise unpriced("input", "a file")
    data_bytes = sum(map(len, _DATA.findall(body)))
    media = images * route.max_image_tokens + files * route.max_file_tokens
    return len(body) - data_bytes + media


def unpriced(param: str, what: str) -> InvalidRequest:
    """The refusal of what a budget cannot bound."""
    return InvalidRequest(
        f"This key has a budget, and what {what} costs with this model is not configured.",
        param=param,
        code="unsupported_parameter",
    )
