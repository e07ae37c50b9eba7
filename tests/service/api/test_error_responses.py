"""The table of statuses."""

from collections.abc import Iterator

from service.api.error_responses import STATUS
from service.errors import TalError


def _tree(kind: type[TalError]) -> Iterator[type[TalError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _tree(child)


def test_every_error_has_a_status_of_its_own_in_the_table() -> None:
    ours = {kind for kind in _tree(TalError) if kind.__module__ == "service.errors"}
    assert ours == set(STATUS)
