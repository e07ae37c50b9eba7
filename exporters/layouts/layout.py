"""How one public implementation writes a network down: its configuration and its weights' names, against ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from service.errors import InvalidOptions

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """`build` makes the network of a configuration; what that leaves open (an optional scale) it reads off the weights.

    `published_name` turns the name of one of our weights into theirs. `left_out` are regular expressions of their names
    that have no place in ours, on purpose.
    """

    build: Callable[[Mapping[str, Any], State], nn.Module]
    published_name: Callable[[str], str]
    left_out: tuple[str, ...] = ()


def renamed(rules: Sequence[tuple[str, str]]) -> Callable[[str], str]:
    """Our names, rewritten by the first rule whose pattern is the whole of them."""

    def published_name(ours: str) -> str:
        for pattern, theirs in rules:
            match = re.fullmatch(pattern, ours)
            if match:
                return match.expand(theirs)
        raise ValueError(f"no published name is known for {ours}")

    return published_name


def refuse_unknown(given: Mapping[str, Any], accepted: Collection[str], where: str) -> None:
    if not isinstance(given, Mapping):
        raise InvalidOptions(f"{where} is {given!r}; an object with the keys {', '.join(sorted(accepted))} is needed")
    unknown = sorted(set(given) - set(accepted))
    if unknown:
        raise InvalidOptions(
            f"{where} has unknown keys {', '.join(unknown)}; accepted are {', '.join(sorted(accepted))}"
        )
