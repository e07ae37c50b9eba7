"""One tree of errors: every leaf has its own stable code, and the picture at the top of the module is the tree."""

from __future__ import annotations

import inspect
import re

from service import errors
from service.errors import TalError


def all_errors() -> list[type[TalError]]:
    return [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, TalError)]


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [error.code for error in all_errors()]
    assert len(codes) == len(set(codes))
    assert all(code == code.lower() and " " not in code for code in codes)


def drawn() -> dict[str, str | None]:
    """Class → base, read from the indentation of the picture."""
    bases: dict[str, str | None] = {}
    above: dict[int, str] = {}
    for line in (errors.__doc__ or "").splitlines()[2:]:
        name = re.search(r"[A-Z]\w+", line)
        if name:
            depth = name.start() // 4
            above[depth] = name.group()
            bases[name.group()] = above.get(depth - 1)
    return bases


def test_the_picture_is_the_tree() -> None:
    assert drawn() == {error.__name__: None if error is TalError else error.__base__.__name__ for error in all_errors()}


def test_everything_we_raise_has_one_root() -> None:
    assert all(error is TalError or TalError in error.__mro__ for error in all_errors())
