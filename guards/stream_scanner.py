"""Finds the phrases and patterns of `Rules` in text that arrives in pieces.

Most words begin no phrase, which their letters tell: only the others are searched.
"""

from guards import normalise
from guards.beginnings import LONGEST_STEP
from guards.keywords import Match, Rules
from guards.normalise import JOINT, OUTSIDE, TO_CLASS
from guards.partial_search import PartialSearch
from guards.patterns import PatternTail

_NOTHING = frozenset(("", OUTSIDE))  # held
# A longer text is not taken word by word; a shorter one is likely to come again.
_LONGEST_TEXT, _SHORT = 4096, 16

# Phrases that may go on: the number of the word they begin with, and their letters so far.
Live = list[tuple[int, bytes]]
_NONE: Live = []


class StreamScanner:
    """Scans the text of one part, or of several in a row.

    After a match there is nothing more to feed. All positions count the code points that were fed,
    over all parts. At most 4 KiB are held: a phrase still open after so much text counts as found.
    """

    __slots__ = (
        "_beginnings",
        "_clear",
        "_patterns",
        "_rules",
        "_search",
        "_state",
        "_steps",
        "fed",
    )

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._beginnings = rules.beginnings[0]
        self._clear, self._steps = self._beginnings.clear, self._beginnings.steps
        self._search = PartialSearch(rules)
        self.fed = 0
        self._state = ""  # see PartialSearch
        patterns = rules.output_patterns
        self._patterns = PatternTail(patterns) if patterns.widest else None

    @property
    def safe(self) -> int:
        """How many code points from the start can be released: no match begins before."""
        is_clear = self._state in _NOTHING and self._patterns is None
        return self.fed if is_clear else self.fed - self.held

    @property
    def held(self) -> int:
        """How many code points at the end cannot be released."""
        state = self._state
        held = len(state) - state.count(JOINT) - state.startswith(OUTSIDE) if state else 0
        return held if self._patterns is None else max(held, self._patterns.held)

    def feed(self, text: str) -> Match | None:
        """The first of the matches that are complete with `text`."""
        # This runs for every piece of every stream: no call that can be spared.
        self.fed += len(text)
        if not text.isascii():
            text = text.replace(JOINT, "\ufffd")
        whole, search = self._state + text, self._search
        state = None if search.allowed else self._steps.get(whole)
        if state is None:
            words = whole.split(" ")
            last = words.pop()
            state = self._steps.get(last)
            if state is None or search.allowed or not self._clear.issuperset(words):
                match = self._walk(whole, words, last)
                if match is None and len(whole) <= _SHORT and not search.allowed:
                    self._beginnings.remember(whole, self._state)
                return match if self._patterns is None else self._with_patterns(match, text)
        self._state, match = state, None
        return match if self._patterns is None else self._with_patterns(match, text)

    def finish(self) -> Match | None:
        """The first match of all, given that no text follows."""
        match = self._search.finish(self._state, self.fed)
        return self._with_patterns(match, "", is_whole=True)

    def next_part(self) -> Match | None:
        """The first match, given that the part ends here; what is fed next is another part.

        The end of a part is the end of a word. A phrase that is cut by it is found however the
        parts are put together: the end counts as a separator where the phrase has one, as nothing
        where it has none; a pattern is looked for in both, joined by nothing and by a line break.
        """
        match = self.finish()
        if match is None:
            match, self._state = self._search.take(self._state + JOINT, self.fed)
            match = self._with_patterns(match, JOINT)
        return match

    def _walk(self, text: str, words: list[str], last: str) -> Match | None:
        """Take `text` word by word, and look closer only where letters do not tell enough.

        What is held after a word depends on nothing but that word and what was held before it.
        """
        search = self._search
        if self._state in _NOTHING:
            search.allowed = []
        if search.allowed or len(text) > _LONGEST_TEXT or text.find(JOINT) >= 0:
            match, self._state = search.take(text, self.fed)
            return match
        clear, steps, held, live = self._clear, self._steps, "", _NONE
        for number, word in enumerate(words):
            if not held:
                if not live and word in clear:
                    continue
                going_on = self._going_on(live, number, word)
                if going_on is not None:
                    live = going_on
                    continue
                held = " ".join([*words[live[0][0] : number], ""]) if live else ""
            chunk = f"{held}{word} "
            if (state := steps.get(chunk)) is None:
                after = len(" ".join([*words[number + 1 :], last]))
                if (match := self._step(chunk, after)) is not None:
                    return match
                state = self._state
            held, live = state, _NONE
        return self._end(held, live, words, last)

    def _going_on(self, live: Live, number: int, word: str) -> Live | None:
        """The phrases that may go on after this word and a space, those that went on before it
        being `live`; None if it takes more than its letters to tell, or one is complete."""
        beginnings, forms, begun = self._beginnings, self._rules.forms, self._beginnings.words
        if not live and beginnings.is_foreign(word):
            beginnings.note_clear(word)
            return live
        letters = beginnings.letters_of(word)
        if not letters:
            if live or not _is_end_of_word(word):
                return None
            beginnings.note_clear(word)
            return live
        going_on: Live = []
        # A word that is not spelt out letter by letter does not go on after white space.
        is_short = len(letters) <= 2
        for start, before in live:
            both = before + letters
            if both in begun:
                if both in forms:
                    return None
                going_on.append((start, both))
            elif is_short and beginnings.first_of(both) is not None:
                going_on.append((start, both))
        if letters in begun:
            if letters in forms:
                return None
            going_on.append((number, letters))
        elif is_short and beginnings.first_of(letters) is not None:
            going_on.append((number, letters))
        if not (going_on or live):
            beginnings.note_clear(word)
        return going_on

    def _end(self, held: str, live: Live, words: list[str], last: str) -> Match | None:
        """Take the last word, which may go on."""
        if not held:
            state = None if live else self._steps.get(last)
            if state is None:
                state = self._going_on_within(live, words, last)
                if state is not None and not live and len(last) <= LONGEST_STEP:
                    self._beginnings.remember(last, state)
            if state is not None:
                self._state = state
                return None
            held = " ".join([*words[live[0][0] :], ""]) if live else ""
        state = self._steps.get(held + last)
        if state is None:
            return self._step(held + last, 0)
        self._state = state
        return None

    def _going_on_within(self, live: Live, words: list[str], last: str) -> str | None:
        """What is held when the last word has begun; None if it takes more than its letters."""
        beginnings, begin = self._beginnings, -1
        if last:
            if not (last.isascii() and last.isalpha()):
                return OUTSIDE if not live and _is_end_of_word(last) else None
            if not live and beginnings.is_foreign(last):
                return OUTSIDE
            letters = normalise.without_repeats(last.encode().translate(TO_CLASS))
            for start, before in [*live, (len(words), b"")]:
                if beginnings.first_of(before + letters) is not None:
                    begin = start
                    break
        elif live:
            begin = live[0][0]
        if begin < 0:
            return OUTSIDE if last else ""
        text = " ".join([*words[begin:], last])
        seen = text.encode().translate(TO_CLASS)
        return text[len(seen) - len(seen.lstrip()) :]

    def _step(self, chunk: str, after: int) -> Match | None:
        """Take `chunk`, after which so much was fed, and remember what is held after it."""
        match, self._state = self._search.take(chunk, self.fed - after)
        # What is allowed counts beyond this text.
        if match is None and len(chunk) <= LONGEST_STEP and not self._search.allowed:
            self._beginnings.remember(chunk, self._state)
        return match

    def _with_patterns(
        self, match: Match | None, text: str, *, is_whole: bool = False
    ) -> Match | None:
        if self._patterns is None:
            return match
        found = self._patterns.take(text, is_whole=is_whole)
        if found is None:
            return match
        index, start, end = found
        pattern = self._rules.patterns[index]
        other = Match(self.fed - start, self.fed - end, pattern.rule, pattern.group)
        return other if match is None else min(match, other)


def _is_end_of_word(word: str) -> bool:
    """Whether nothing of a phrase begins in what the scanner calls a word: the end of one."""
    return word.startswith(OUTSIDE) and word[1:].isascii() and word[1:].isalpha()
