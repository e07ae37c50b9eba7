"""The promise that every artifact store keeps: bytes in under a key, a readable file of them out.

Videos and results are named by the sha256 of their bytes; features by what they were computed from; parts of an upload
by its id. A store has an id, so that an API and workers which would look for each other's files in different places
refuse to work together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

Kind = Literal["video", "result", "features", "part"]
KINDS: tuple[Kind, ...] = ("video", "result", "features", "part")


@dataclass(frozen=True)
class Artifact:
    kind: Kind
    key: str
    size_bytes: int


class ArtifactWriter(Protocol):
    """A file that is being received; leaving the block without `commit` leaves nothing behind."""

    size_bytes: int

    def write(self, part: bytes) -> None:
        """Raises VideoTooLarge beyond the writer's limit and StorageFull where the disk has no room."""

    def commit(self) -> Artifact:
        """Durable and under its final name once this returns; the same bytes twice are one artifact."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class ArtifactStore(Protocol):
    """`path`, `touch` and `delete` raise ArtifactNotFound for what is not there."""

    @property
    def id(self) -> str: ...

    def writer(self, kind: Kind, max_bytes: int | None = None, key: str | None = None) -> ArtifactWriter:
        """Of what will be under the key given, else under the sha256 of its bytes."""

    def put(self, kind: Kind, data: bytes, key: str | None = None) -> Artifact:
        """Whole bytes at once, under their sha256 or, for what is computed, the key given; replaces what is there."""

    def path(self, kind: Kind, key: str) -> Path:
        """A local file with the bytes, good for reading until the artifact is removed; counts as a use."""

    def touch(self, kind: Kind, key: str) -> None:
        """Counts as a use, which puts off removal."""

    def delete(self, kind: Kind, key: str) -> None: ...

    def sweep(self, kind: Kind, unused_s: float, in_use: Callable[[Collection[str]], set[str]]) -> int:
        """Removes what nobody has used for so long and `in_use` does not name; half-written files too. Their number."""

    def free_bytes(self) -> int: ...

    def ping(self) -> None:
        """Raises Unavailable or OSError where it does not answer."""
