"""Long work in turns: between two of them whoever asked for it may let others go first."""

from collections.abc import Generator
from typing import TypeVar

_Result = TypeVar("_Result")
Turns = Generator[None, None, _Result]


def at_once(turns: "Turns[_Result]") -> _Result:
    """What all turns come to, one right after the other."""
    while True:
        try:
            next(turns)
        except StopIteration as end:
            result: _Result = end.value
            return result
