"""A video's name and the place of features in; the file that holds the video's own out. The one rule for such names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from service.errors import InvalidOptions

ENDINGS = (".npz", ".npy", ".h5", ".hdf5")
PREFIX = "v_"


def names_of(video: str) -> tuple[str, str]:
    """ActivityNet's ids appear with and without their `v_`; the video's own name goes first."""
    return video, video.removeprefix(PREFIX) if video.startswith(PREFIX) else PREFIX + video


def find(source: Path, video: str) -> Path:
    """Where the features of `video` are: the one file of that name in a folder, or the file that holds them all."""
    if source.is_file():
        return source
    for name in names_of(video):
        found = [path for ending in ENDINGS if (path := source / f"{name}{ending}").is_file()]
        if len(found) > 1:
            raise InvalidOptions(
                f"{source}: several feature files for {video!r}: {', '.join(path.name for path in found)}"
            )
        if found:
            return found[0]
    names = " or ".join(names_of(video))
    raise InvalidOptions(f"{source}: no feature file for {video!r}: neither {names} with {', '.join(ENDINGS)} is there")


def unfindable(source: Path, videos: Sequence[str]) -> list[str]:
    """What `find` says of those videos that it refuses."""
    problems = []
    for video in videos:
        try:
            find(source, video)
        except InvalidOptions as error:
            problems.append(str(error))
    return problems
