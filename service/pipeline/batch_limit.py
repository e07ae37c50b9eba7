"""Work in batches in, results batch by batch out; a batch that no memory is left for is halved and tried again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TypeVar

from service.errors import InferenceFailed, first_line

# What ONNX Runtime, CUDA's libraries and torch say when an allocation fails.
_SIGNS = (
    "out of memory",
    "failed to allocate memory",
    "available memory of",
    "alloc_failed",
    "bad_alloc",
    "bad allocation",
    "outofmemory",
)
Result = TypeVar("Result")


class BatchLimit:
    """How many items one run may hold: `largest` at first, `smallest` where a graph takes no fewer."""

    def __init__(self, largest: int | None = None, smallest: int = 1) -> None:
        self.largest = largest
        self.was_halved = False
        self.runs: Counter[int] = Counter()  # by how many items each held
        self._smallest = smallest

    def each(self, count: int, run: Callable[[slice], Result]) -> Iterator[tuple[slice, Result]]:
        """Runs `count` items in order; what was too large once is not tried again."""
        at = 0
        while at < count:
            part = slice(at, min(count, at + (self.largest or count)))
            result = self._attempt(run, part)
            if result is not None:
                self.runs[part.stop - part.start] += 1
                yield part, result
                at = part.stop

    def _attempt(self, run: Callable[[slice], Result], part: slice) -> Result | None:
        try:
            return run(part)
        except InferenceFailed as error:
            if not _is_out_of_memory(error):
                raise
            size = part.stop - part.start
            if size <= self._smallest:
                raise InferenceFailed(
                    f"memory ran out on a batch of {size}, the smallest there is: {first_line(error)}"
                ) from error
            self.largest, self.was_halved = max(self._smallest, size // 2), True
        return None


def _is_out_of_memory(error: BaseException) -> bool:
    told = f"{error} {type(error.__cause__).__name__} {error.__cause__}".lower()
    return any(sign in told for sign in _SIGNS)
