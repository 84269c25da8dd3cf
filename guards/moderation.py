"""What a text violates, in OpenAI's categories: the built-in rules, and an endpoint's answer.

The built-in rules are a first line and no model: they know orders of English words, see
guards/moderation_rules.py. Categories: https://platform.openai.com/docs/guides/moderation
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import chain, repeat
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from guards.categories import CATEGORIES
from guards.moderation_rules import WORDS, Order, orders

DEFAULT_THRESHOLD = 0.5


class Verdict(Struct, frozen=True):
    """How far a text violates each category, 0 to 1; all of CATEGORIES are there."""

    scores: dict[str, float]

    def violated(
        self, thresholds: Mapping[str, float], default: float = DEFAULT_THRESHOLD
    ) -> tuple[str, ...]:
        """The categories whose score is at least their threshold, or `default` without one."""
        get = thresholds.get
        return tuple([name for name, score in self.scores.items() if score >= get(name, default)])


def verdict(scores: Mapping[str, float]) -> Verdict:
    """A verdict of some categories; the others are 0."""
    return Verdict({**dict.fromkeys(CATEGORIES, 0.0), **scores})


def merged(verdicts: Iterable[Verdict]) -> Verdict:
    """The highest score that any of them gives to each category."""
    scores = dict.fromkeys(CATEGORIES, 0.0)
    for each in verdicts:
        for name, score in each.scores.items():
            scores[name] = max(score, scores.get(name, 0.0))
    return Verdict(scores)


# --- the built-in rules ---------------------------------------------------------------------------

# A text becomes a string with one character for each word: those that occur in the same lists and
# orders share one. An order of words is then a regular expression over such characters.
_OTHER, _END = "\x00", "\x01"  # a word that no order names; the end of a sentence
_FIRST_CODE = 2
_REACH = 8  # words around an order in which one that makes it harmless counts
_TOKEN = re.compile(r"~(?P<gap>\d)|\[(?P<set>[^\]]+)\]|(?P<word>[A-Za-z_]\w*)|\s+")
_RARE = re.compile(r"(?<=\^)(?:\[[^\]]+\]|\w+)")
_GROUP = re.compile(r"\((?:[^()]|\([^()]*\))*\)")  # what may be absent, or must be
_APART = re.compile(f"{_OTHER}{{{_REACH + 1},}}")

_ENDS = ".!?;:(){}[]<>=|`\\"
_TABLE = bytes(
    ord(each.lower()) if each.isascii() and (each.isalnum() or each == "_")
    # A code name like kill_all_children is one word.
    else ord("." if each in _ENDS else " ")
    for each in map(chr, range(256))
)  # fmt: skip
# Accents that stand alone, soft hyphens and what has no width, in UTF-8; and how they begin.
_MARKS = re.compile(
    rb"\xcc[\x80-\xbf]|\xcd[\x80-\xaf]|\xc2\xad|\xe2\x80[\x8b-\x8f]|\xe2\x81[\xa0-\xa4]|\xef\xbb\xbf"
)
_STARTS = ("cc", "cd", "c2ad", "e2808b", "e2808c", "e2808d", "e2808e", "e2808f", "e281", "efbb")
_MARK_STARTS = tuple(map(bytes.fromhex, _STARTS))


class _Rule(Struct, frozen=True, eq=False):
    pattern: re.Pattern[str]
    rare: frozenset[bytes]
    needs: tuple[frozenset[bytes], ...]  # of each of these at least one word
    unless: re.Pattern[str] | None
    score: float
    categories: tuple[str, ...]

    def may_occur(self, words: set[bytes]) -> bool:
        return not any(map(words.isdisjoint, self.needs))

    def occurs(self, codes: str) -> bool:
        return any(
            self.unless is None or not self.unless.search(_around(codes, *match.span()))
            for match in self.pattern.finditer(codes)
        )


class Compiled(Struct, frozen=True, eq=False):
    """The built-in rules, and the characters that stand for words."""

    codes: dict[bytes, str]
    rules_of: dict[bytes, list[_Rule]]  # by each of their rare words


def builtin(text: str) -> Verdict:
    """What the built-in rules find; 2 kB of prose take about 50 µs."""
    codes, rules_of = (compiled := load_builtin()).codes, compiled.rules_of
    words = _words(text)
    present = set(words)
    scores = dict.fromkeys(CATEGORIES, 0.0)
    rare = rules_of.keys() & present
    found = {rule for word in rare for rule in rules_of[word]}
    if rules := [rule for rule in found if rule.may_occur(present)]:
        sentences = _codes_of(words, rare, codes)
        for rule in rules:
            if rule.occurs(sentences):
                for name in rule.categories:
                    scores[name] = max(scores[name], rule.score)
    return Verdict(scores)


def _words(text: str) -> list[bytes]:
    """The words in lower case without apostrophes, and b"." at the end of each sentence."""
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text.replace("\u2019", "'"))
    raw = text.encode("utf-8", "replace")
    if not raw.isascii() and any(map(raw.__contains__, _MARK_STARTS)):
        raw = _MARKS.sub(b"", raw)
    raw = raw.replace(b"\n\n", b".")
    return raw.translate(_TABLE, b"'").replace(b".", b" . ").split()


def _codes_of(words: list[bytes], rare: Iterable[bytes], code_of: Mapping[bytes, str]) -> str:
    """The sentences with a rare word, each kind of sentence once."""
    codes = _APART.sub(_END, "".join(map(code_of.get, words, repeat(_OTHER))))
    wanted = frozenset([code_of[word] for word in rare])
    sentences = dict.fromkeys(codes.split(_END))
    return _END.join([each for each in sentences if not wanted.isdisjoint(each)])


def _around(codes: str, start: int, end: int) -> str:
    """The words near a match, and those of the match, in the same sentence."""
    before = codes[max(0, start - _REACH) : start].rpartition(_END)[2]
    return before + codes[start:end] + codes[end : end + _REACH].partition(_END)[0]


def _sets(words: str) -> Iterable[frozenset[str]]:
    """The words of each list, set or single word in (a part of) an order."""
    for match in _TOKEN.finditer(words):
        if names := match["set"] or match["word"]:
            yield _spelled(names)


def _spelled(names: str) -> frozenset[str]:
    return frozenset(chain.from_iterable(WORDS.get(name, name).split() for name in names.split()))


@cache
def load_builtin() -> Compiled:
    """Compile the built-in rules: 0.1 s the first time, which not every gateway needs."""
    table = tuple(orders())
    code_of = _codes(table)
    rules_of: dict[bytes, list[_Rule]] = {}
    for order in table:
        rule = _rule(order, code_of)
        for word in rule.rare:
            rules_of.setdefault(word, []).append(rule)
    codes = {word.encode(): code for word, code in {**code_of, ".": _END}.items()}
    return Compiled(codes, rules_of)


def _codes(table: Sequence[Order]) -> dict[str, str]:
    every = " ".join([f"{order.words} [{order.unless or 'I'}]" for order in table])
    sets = list(dict.fromkeys(_sets(every)))
    members: dict[str, list[int]] = {}
    for number, words in enumerate(sets):
        for word in words:
            members.setdefault(word, []).append(number)
    kinds = sorted(set(map(tuple, members.values())))
    code_of = {kind: chr(_FIRST_CODE + number) for number, kind in enumerate(kinds)}
    return {word: code_of[tuple(numbers)] for word, numbers in members.items()}


def _rule(order: Order, code_of: Mapping[str, str]) -> _Rule:
    def charset(words: Iterable[str]) -> str:
        codes = sorted({code_of[word] for word in words})
        return "[" + "".join(f"\\u{ord(each):04x}" for each in codes) + "]"

    def regex(match: re.Match[str]) -> str:
        if match["gap"]:
            return f"[^\\u0001]{{0,{match['gap']}}}?"
        names = match["set"] or match["word"]
        return charset(_spelled(names)) if names else ""

    unless = _spelled(order.unless)
    words = order.words.replace("^", "")
    return _Rule(
        re.compile(_TOKEN.sub(regex, words)),
        _encoded(chain.from_iterable(_sets(" ".join(_RARE.findall(order.words))))),
        tuple(map(_encoded, _sets(_GROUP.sub(" ", words)))),
        re.compile(charset(unless)) if unless else None,
        order.score,
        order.categories,
    )


def _encoded(words: Iterable[str]) -> frozenset[bytes]:
    return frozenset([word.encode() for word in words])


# --- an endpoint's answer -------------------------------------------------------------------------

Name = Annotated[str, Meta(min_length=1, max_length=64)]
Score = Annotated[float, Meta(ge=0, le=1)]


class _Result(Struct):
    flagged: bool | None = None
    categories: dict[Name, bool | None] | None = None
    category_scores: dict[Name, Score | None] | None = None


class _Answer(Struct):
    results: Annotated[list[_Result], Meta(min_length=1, max_length=1024)]


def parse_endpoint(body: bytes) -> Verdict:
    """The verdict in the answer of POST /moderations; of several results the highest scores.

    Of a category without a score it is 1 or 0. Categories that OpenAI does not have are kept.
    Raises ValueError for an answer that is misshapen or contradicts itself.
    """
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise ValueError(f"not an answer of a moderation: {exc}") from None
    return merged([verdict(_scores(result)) for result in answer.results])


def _scores(result: _Result) -> dict[str, float]:
    categories, scores = result.categories or {}, result.category_scores or {}
    if max(len(categories), len(scores)) > 64:
        raise ValueError("too many categories")
    said = {name: value for name, value in categories.items() if value is not None}
    found = {name: float(value) for name, value in said.items()}
    found |= {name: score for name, score in scores.items() if score is not None}
    if not found:
        raise ValueError("neither categories nor scores")
    if said and result.flagged is not None and result.flagged != any(said.values()):
        raise ValueError("flagged contradicts the categories")
    if any(value and not found[name] for name, value in said.items()):
        raise ValueError("the categories contradict the scores")
    if result.flagged and not any(found.values()):
        raise ValueError("flagged contradicts the scores")
    return found
