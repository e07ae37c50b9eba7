"""What the pipeline asks of an inference engine: named tensors in, named tensors out, on one device."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Device = Literal["auto", "cpu", "cuda"]
Array = NDArray[Any]


@dataclass(frozen=True)
class TensorSpec:
    """A graph's input or output; a dimension is a number, or None where the graph leaves it open."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


class DeviceTensor(Protocol):
    """A tensor that stays where it was computed until somebody asks for its numbers."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def numpy(self) -> Array: ...


Tensor = Array | DeviceTensor


class Session(Protocol):
    """One loaded graph."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def provider(self) -> str: ...

    @property
    def keeps_on_device(self) -> bool:
        """Whether handing a DeviceTensor from one graph to the next saves a copy."""
        ...

    def run(
        self, feeds: Mapping[str, Tensor], *, keep: Collection[str] = (), want: Collection[str] = ()
    ) -> dict[str, Tensor]:
        """Runs the graph. `want` limits the outputs (none named: all); those in `keep` stay on the device."""
        ...


def to_numpy(tensor: Tensor) -> Array:
    return tensor if isinstance(tensor, np.ndarray) else tensor.numpy()
