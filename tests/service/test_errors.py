"""One tree of errors: every leaf has its own stable code, and the picture at the top of the module is the tree."""

from __future__ import annotations

import inspect

from service import errors
from service.errors import TalError


def all_errors() -> list[type[TalError]]:
    return [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, TalError)]


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [error.code for error in all_errors()]
    assert len(codes) == len(set(codes))
    assert all(code == code.lower() and " " not in code for code in codes)


def test_the_picture_shows_every_error() -> None:
    missing = [error.__name__ for error in all_errors() if f" {error.__name__}" not in f" {errors.__doc__}"]
    assert missing in ([], ["TalError"])


def test_everything_we_raise_has_one_root() -> None:
    assert all(error is TalError or TalError in error.__mro__ for error in all_errors())
