"""Which canaries the self test sends: every field and place, in every mode and encoding."""

import itertools
from collections.abc import Iterator, Mapping, Sequence

from anos.config_sections import Keywords
from anos.selftest_canary import ESCAPED, PATTERN, PLAIN
from anos.selftest_cases import BACKGROUND, STREAM, WHOLE, Sent, wanted
from anos.selftest_fields import FIELDS, PLACES
from anos.selftest_outputs import CUT, LETTERS, Said
from anos.selftest_places import Field, Json, formed
from guards.keywords import Rules

# What may be asked for at a route, and how an answer is cut.
REQUEST_MODES = {
    "/v1/responses": (WHOLE, STREAM, BACKGROUND),
    "/v1/chat/completions": (WHOLE, STREAM),
}
ANSWER_MODES = {
    "/v1/responses": (WHOLE, STREAM, CUT, LETTERS, BACKGROUND),
    "/v1/chat/completions": (WHOLE, STREAM, CUT, LETTERS),
}


def requests(
    route: str, paths: Sequence[str], texts: Mapping[str, str], rules: Rules, keywords: Keywords
) -> list[Sent]:
    """The requests with canaries, at the paths of a route in turn: they have one handler.

    Each field is tried in each way, with each of its bodies in one and with one of them in the
    others. Of what is not looked at one is enough.
    """
    modes = REQUEST_MODES[route]
    sent: list[Sent] = []
    for field in FIELDS[route]:
        ways = texts
        if field.form == "name":
            ways = {way: text for way, text in texts.items() if rules.first(formed("name", text))}
        is_off = wanted(keywords, field.source) == "off"
        for body, way, mode in _each(field, ways, modes[:1] if is_off else modes, is_off=is_off):
            path = paths[(len(sent) + len(sent) // len(modes)) % len(paths)]
            dialect = field.upstreams[len(sent) % len(field.upstreams)]
            sent.append(Sent(path, dialect, mode, field, body, way, texts[way]))
    return sent


def _each(
    field: Field, ways: Mapping[str, str], modes: Sequence[str], *, is_off: bool
) -> Iterator[tuple[Json, str, str]]:
    bodies = itertools.cycle(field.bodies)
    for number, way in enumerate(ways):
        if number > 0 and is_off:
            return
        for mode in modes:
            for body in field.bodies if number == 0 else (next(bodies),):
                yield body, way, STREAM if "stream" in body else mode


def answers(
    route: str, paths: Sequence[str], texts: Mapping[str, str]
) -> Iterator[tuple[str, Said]]:
    """The answers with canaries and their columns, at the paths of a route in turn."""
    turns = itertools.cycle(paths)
    for place in PLACES:
        for mode in ANSWER_MODES[route] if PLAIN in texts else ():
            yield mode, Said(route, next(turns), place, mode, texts[PLAIN])
        for mode in (WHOLE, CUT):
            if ESCAPED in texts and place.form == "json":
                said = Said(route, next(turns), place, mode, texts[ESCAPED], is_escaped=True)
                yield ESCAPED, said
            if PATTERN in texts:
                yield PATTERN, Said(route, next(turns), place, mode, texts[PATTERN])
