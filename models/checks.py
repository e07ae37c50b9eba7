"""Numbers of a network's configuration in, a ValueError that names them where they make no sense out."""

from __future__ import annotations


def check_size(name: str, value: object) -> None:
    """Refuse a size in a configuration that is not a whole number from 1 on."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is {value!r}; a whole number from 1 on is needed")


def check_dropout(name: str, value: object) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1:
        raise ValueError(f"{name} is {value!r}; a number from 0 to below 1 is needed")
