"""How one public implementation writes a network down: its configuration and its weights' names, against ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

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
