"""The name of a data set and the path of its files in; a `Dataset` out. All readers are listed here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from service.errors import InvalidOptions
from training.datasets.activitynet import read_activitynet, read_bmn, read_own
from training.datasets.charades import read_charades
from training.datasets.dataset import Dataset, Options
from training.datasets.ego4d import read_ego4d
from training.datasets.epic_kitchens import read_epic_kitchens
from training.datasets.multithumos import read_multithumos
from training.datasets.thumos14 import read_thumos14

Reader = Callable[[Path, Options], Dataset]
READERS: dict[str, Reader] = {
    "thumos14": read_thumos14,
    "activitynet-1.3": read_activitynet,
    "activitynet-bmn": read_bmn,
    "multithumos": read_multithumos,
    "charades": read_charades,
    "epic-kitchens-100": read_epic_kitchens,
    "ego4d-mq": read_ego4d,
    "json": read_own,
}


def read(
    name: str, path: Path, subset: str | None = None, *, task: str = "verb", as_published: bool = False
) -> Dataset:
    """One subset of a data set, or all of it; or one error that tells all that its files have wrong.

    What the published files are known to have wrong is mended, and told in `notes`; see `Options` for as_published.
    """
    reader = find(name)
    if not path.exists():
        raise InvalidOptions(f"{path} is not there; the files of {name} are needed")
    return reader(path, Options(subset, task, as_published))


def find(name: str) -> Reader:
    if name not in READERS:
        raise InvalidOptions(f"data set {name!r} is not known; accepted are {', '.join(READERS)}")
    return READERS[name]
