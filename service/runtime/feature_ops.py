"""Feature tensors in, joined and windowed feature tensors out: in NumPy, or where the graphs run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.runtime import device_graphs
from service.runtime.onnx_session import OnnxOptions, OnnxSession
from service.runtime.session import Array, Tensor, to_numpy

PARTS_PER_JOIN = 64  # a graph is made for each number of parts, so the number is kept small


@dataclass(frozen=True)
class Gather:
    """For each of (B, L) places: two rows and their weights; a weight of 0 on both leaves the place empty."""

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    weight_low: NDArray[np.float32]
    weight_high: NDArray[np.float32]


class RowPile:
    """Rows that arrive a few at a time; joined in blocks, since thousands of small arrays cost more than they hold."""

    def __init__(self, join: Callable[[Sequence[Tensor]], Tensor]) -> None:
        self._join = join
        self._blocks: list[Tensor] = []
        self._loose: list[Tensor] = []

    def add(self, part: Tensor) -> None:
        self._loose.append(part)
        if len(self._loose) == PARTS_PER_JOIN:
            self._blocks.append(self._join(self._loose))
            self._loose = []

    def rows(self) -> Tensor:
        return self._join([*self._blocks, *self._loose])


class FeatureOps(Protocol):
    """What happens to features between backbone and detector."""

    def join_rows(self, parts: Sequence[Tensor]) -> Tensor:
        """(n_i, C) each → (Σ n_i, C)."""
        ...

    def join_columns(self, parts: Sequence[Tensor]) -> Tensor:
        """(T, c_i) each → (T, Σ c_i)."""
        ...

    def gather(self, rows: Tensor, places: Gather) -> Tensor:
        """(T, C) → (B, C, L)."""
        ...


class HostOps:
    """Features as NumPy arrays."""

    def join_rows(self, parts: Sequence[Tensor]) -> Array:
        return np.concatenate([to_numpy(part) for part in parts])

    def join_columns(self, parts: Sequence[Tensor]) -> Array:
        return np.concatenate([to_numpy(part) for part in parts], axis=1)

    def gather(self, rows: Tensor, places: Gather) -> Array:
        values = to_numpy(rows)
        windows = values[places.low] * places.weight_low[..., None]
        if places.weight_high.any():
            windows += values[places.high] * places.weight_high[..., None]
        return np.ascontiguousarray(windows.transpose(0, 2, 1))


class DeviceOps:
    """Features as tensors of ONNX Runtime: they leave the device only when somebody reads them."""

    def __init__(self, options: OnnxOptions) -> None:
        self._session = cache(lambda graph: OnnxSession(graph, options, name="feature join", bind=True))

    def join_rows(self, parts: Sequence[Tensor]) -> Tensor:
        while len(parts) > 1:
            parts = [self._join(device_graphs.concat_rows(len(group)), group) for group in _groups(parts)]
        return parts[0]

    def join_columns(self, parts: Sequence[Tensor]) -> Tensor:
        return self._join(device_graphs.concat_columns(len(parts)), parts)

    def gather(self, rows: Tensor, places: Gather) -> Tensor:
        feeds: dict[str, Tensor] = {
            "rows": rows,
            "index_low": places.low,
            "index_high": places.high,
            "weight_low": places.weight_low[..., None],
            "weight_high": places.weight_high[..., None],
        }
        return self._session(device_graphs.gather_windows()).run(feeds, keep=["features"])["features"]

    def _join(self, graph: bytes, parts: Sequence[Tensor]) -> Tensor:
        if len(parts) == 1:
            return parts[0]
        feeds = {f"part_{index}": part for index, part in enumerate(parts)}
        return self._session(graph).run(feeds, keep=["rows"])["rows"]


def _groups(parts: Sequence[Tensor]) -> list[Sequence[Tensor]]:
    """Neighbours in groups of a power of two: every size of group is a graph and a session of its own."""
    groups, at = [], 0
    while at < len(parts):
        size = min(PARTS_PER_JOIN, 1 << (len(parts) - at).bit_length() - 1)
        groups.append(parts[at : at + size])
        at += size
    return groups
