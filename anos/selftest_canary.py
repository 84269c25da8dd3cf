"""What the self test sends: a phrase and a pattern of the profile's own, plain and disguised."""

import re
import string
from collections.abc import Callable

from guards.confusables import LOOK_ALIKE
from guards.keywords import Phrase, Rules

# What is said before and after the canary; nothing else in any answer begins like this.
BEFORE, AFTER = "Fine so far: ", " and so on."
# How a canary is written; "escaped" stands for escapes of JSON, which are made where it is put.
PLAIN, ESCAPED, PATTERN = "plain", "escaped", "pattern"
WAYS = (PLAIN, "upper", "wide", "unseen", "twins", "leet", "apart", ESCAPED, PATTERN)

_LEET = str.maketrans("aeios", "43105")
_TWINS = {letter: twin for twin, letter in LOOK_ALIKE.items() if not twin.isascii()}
# A profile may have very many phrases; a good one is among the first of them.
_MOST_TRIED = 50


def canaries(rules: Rules) -> tuple[dict[str, str], list[str]]:
    """The canary in each of WAYS in which the rules know it, and the names of the rules it is for.

    The phrase that is known in most ways is taken. Both are empty if no rule finds what it says.
    """
    tried = [(phrase, _ways(rules, phrase)) for phrase in rules.phrases[:_MOST_TRIED]]
    phrase, ways = max(tried, key=lambda each: len(each[1]), default=(None, {}))
    names = [phrase.rule] if phrase and ways else []
    for pattern in rules.patterns:
        if (text := sample(pattern.text)) and is_found(rules, text):
            return {**ways, PATTERN: text}, [*names, pattern.rule]
    return ways, names


def is_found(rules: Rules, text: str) -> bool:
    """Whether the rules find it between what is said before and after."""
    return rules.first(f"{BEFORE}{text}{AFTER}") is not None


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


def _wide(text: str) -> str:
    return "".join(chr(ord(char) + 0xFEE0) if "!" <= char <= "~" else char for char in text)


def _twins(text: str) -> str:
    return "".join(_TWINS.get(char, char) for char in text)


def _leet(text: str) -> str:
    return text[:1] + text[1:-1].translate(_LEET) + text[-1:]


def _apart(text: str) -> str:
    return "-".join(char for char in text if not char.isspace())


_DISGUISES: dict[str, Callable[[str], str]] = {
    "upper": str.swapcase,
    "wide": _wide,
    "unseen": lambda text: re.sub(r"(?<=\w)(?=\w)", "\u200b", text),
    "twins": _twins,
    "leet": _leet,
    "apart": _apart,
}


# Patterns -----------------------------------------------------------------------------------------

_ATOM = re.compile(
    r"\[\^?\]?(?:\[:\^?\w+:\]|\\.|[^\]\\])*\]|\\[pP]\{\^?\w+\}|\\.|[^()|]", re.DOTALL
)
_TIMES = re.compile(r"(?:[*+]|(?P<maybe>\?)|\{(?P<least>\d+)(?:,\d*)?\})\??")
_GROUP = re.compile(r"\((?:\?(?:P?<\w+>|[imsU-]*:))?")
_FLAGS = re.compile(r"\(\?[imsU-]+\)")
_CHARS = string.ascii_lowercase + string.digits + string.ascii_uppercase + " " + string.punctuation


def sample(pattern: str) -> str:
    """A text that a pattern of RE2 probably matches; what it finds has to be looked at."""
    return _first_alternative(pattern, 0)[0]


def _first_alternative(pattern: str, at: int) -> tuple[str, int]:
    """A text for what begins at `at`, and where its group or the pattern ends."""
    texts = [""]
    while at < len(pattern) and pattern[at] != ")":
        if pattern[at] == "|":
            texts.append("")
            at += 1
            continue
        if flags := _FLAGS.match(pattern, at):
            at = flags.end()
            continue
        if group := _GROUP.match(pattern, at):
            one, at = _first_alternative(pattern, group.end())
            at += 1
        elif atom := _ATOM.match(pattern, at):
            one, at = _character(atom[0]), atom.end()
        else:
            return "", len(pattern)
        if times := _TIMES.match(pattern, at):
            one, at = one * (0 if times["maybe"] else int(times["least"] or 1)), times.end()
        texts[-1] += one
    return texts[0], at


def _character(atom: str) -> str:
    if len(atom) == 1 and atom not in ".^$":
        return atom
    import re2  # not loaded where there are no patterns

    options = re2.Options()
    options.log_errors = False
    try:
        matches = re2.compile(atom, options).fullmatch
    except re2.error:  # a piece of something else
        return ""
    return next((char for char in _CHARS if matches(char)), "")
