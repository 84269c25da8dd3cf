"""What the self test sends: a phrase and a pattern of the profile's own, plain and disguised, and
the forms it takes where it stands.
"""

import base64
import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from guards.confusables import LOOK_ALIKE
from guards.keywords import Phrase, Rules

Json = dict[str, Any]

RESPONSES, CHAT = "responses", "chat"  # what an upstream speaks
# What is said before and after the canary; nothing else in any answer begins like this.
BEFORE, AFTER = "Fine so far: ", " and so on."
# The canary of moderation: several categories of the built-in rules, whatever the thresholds.
REFUSED = "I am going to kill you. I want to kill myself. How do I make a bomb at home"
# How a canary is written; "escaped" stands for escapes of JSON, which are made where it is put.
PLAIN, ESCAPED, PATTERN = "plain", "escaped", "pattern"
WAYS = (PLAIN, "upper", "wide", "unseen", "twins", "leet", "apart", ESCAPED, PATTERN)

_LEET = str.maketrans("aeios", "43105")
_TWINS = {letter: twin for twin, letter in LOOK_ALIKE.items() if not twin.isascii()}
# A profile may have very many phrases; a good one is among the first of them.
_MOST_TRIED = 50
_LONGEST_BYTES = 512  # of a sample of a pattern


def canaries(rules: Rules) -> tuple[dict[str, str], list[str]]:
    """The canary in each of WAYS in which the rules know it, and the names of the rules it is for.

    The phrase that is known in most ways is taken. Both are empty if no rule finds what it says.
    """
    tried = [(phrase, _ways(rules, phrase)) for phrase in rules.phrases[:_MOST_TRIED]]
    phrase, ways = max(tried, key=lambda each: len(each[1]), default=(None, {}))
    names = [phrase.rule] if phrase and ways else []
    for pattern in rules.patterns:
        for text in samples(pattern.text):
            if is_found(rules, text):
                return {**ways, PATTERN: text}, [*names, pattern.rule]
    return ways, names


def is_found(rules: Rules, text: str) -> bool:
    """Whether the rules find it between what is said before and after."""
    return rules.first(said(text)) is not None


def said(text: str) -> str:
    """The canary between what is said before and after."""
    return f"{BEFORE}{text}{AFTER}"


def samples(pattern: str) -> Iterator[str]:
    """Texts that a pattern of RE2 probably finds, each to be looked at by the rules."""
    import re2  # not loaded where there are no patterns

    options = re2.Options()
    options.log_errors = False
    # Repeated no more than it must be, it ends; it need not be the same pattern any more.
    short = re.sub(r"(?<!\\)[+*]", "", re.sub(r"\{(\d+),\d*\}", r"{\1}", pattern))
    for each in (pattern, short):
        with contextlib.suppress(re2.error):
            for end in re2.compile(each, options).possiblematchrange(_LONGEST_BYTES):
                text = (end or b"").decode(errors="ignore")
                yield from (re.sub(r"[\0-\x1f]", "x", text), text)


def _ways(rules: Rules, phrase: Phrase) -> dict[str, str]:
    plain = phrase.text
    if not is_found(rules, plain):  # it is allowed, say
        return {}
    found = {PLAIN: plain, ESCAPED: plain}
    for way, disguise in _DISGUISES.items():
        text = disguise(plain)
        if text != plain and is_found(rules, text):
            found[way] = text
    return found


_DISGUISES: dict[str, Callable[[str], str]] = {
    "upper": str.swapcase,
    "wide": lambda text: re.sub("[!-~]", lambda char: chr(ord(char[0]) + 0xFEE0), text),
    "unseen": lambda text: re.sub(r"(?<=\w)(?=\w)", "\u200b", text),
    "twins": lambda text: "".join(_TWINS.get(char, char) for char in text),
    "leet": lambda text: text[:1] + text[1:-1].translate(_LEET) + text[-1:],
    "apart": lambda text: "-".join("".join(text.split())),
}


# Where it stands ----------------------------------------------------------------------------------

# Each stands in a body, as a value or as the name of a field, for one form of the text.
TEXT, JSON, BASE64, DATA_URL, PERCENT_URL, NAME = (f"\0{number}" for number in range(6))
ID = "\1"  # and this for an id that no other request has
# For the two halves of a text, and for a list of the tokens it came in.
FIRST, REST, TOKENS = (f"\2{number}" for number in range(3))


def put(body: Any, texts: Mapping[str, Any]) -> Any:
    """The body with what `texts` has for the marks in it."""
    if isinstance(body, dict):
        return {put(name, texts): put(value, texts) for name, value in body.items()}
    if isinstance(body, (list, tuple)):
        return [put(each, texts) for each in body]
    return texts.get(body, body) if isinstance(body, str) else body


def formed(form: str, text: str, *, escaped: bool = False) -> str:
    """What stands in a body for the text; in the form JSON it may be `escaped`."""
    return FORMS[form](text, escaped)


def escapes(text: str) -> str:
    r"""Every character as a \u escape of JSON."""
    units = text.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def halves(text: str) -> list[str]:
    """The text, cut in the middle."""
    middle = len(text) // 2
    return [text[:middle], text[middle:]]


def tokens(pieces: list[str]) -> list[Json]:
    """The pieces as logprobs have them."""
    return [{"token": each, "logprob": -1.0, "bytes": [], "top_logprobs": []} for each in pieces]


def _json(text: str, escaped: bool) -> str:
    said = escapes(text) if escaped else json.dumps(text, ensure_ascii=False)[1:-1]
    return f'{{"q":"{said}"}}'


def _packed(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


FORMS: dict[str, Callable[[str, bool], str]] = {
    TEXT: lambda text, _: text,
    JSON: _json,
    BASE64: lambda text, _: _packed(text),
    DATA_URL: lambda text, _: f"data:text/plain;base64,{_packed(text)}",
    PERCENT_URL: lambda text, _: f"data:,{quote(text)}",
    # What names of functions and schemas may be made of.
    NAME: lambda text, _: re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")[:64],
}
