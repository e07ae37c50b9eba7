"""Charades_v1_train.csv, Charades_v1_test.csv and Charades_v1_classes.txt in; a `Dataset` out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from service.errors import InvalidOptions
from training.datasets.activitynet import fill
from training.datasets.dataset import Dataset, Draft, Mending, Options
from training.datasets.files import class_list, first_of, folder_of, load_json, rows
from training.datasets.multilabel import fill_numbered

FILES = {"Charades_v1_train.csv": "training", "Charades_v1_test.csv": "test"}
CLASSES = "Charades_v1_classes.txt"


def read_charades(path: Path, options: Options) -> Dataset:
    """The folder of the files, one of them (its name must tell train from test), or the JSON that others made of them;
    the classes' file beside it gives the names."""
    draft = Draft("charades", options, Mending(inside=0.0, reversed=True))
    listing = first_of(folder_of(path), CLASSES)
    classes = {} if listing is None else class_list(listing, draft)
    if listing is None:
        draft.notes.append(f"no {CLASSES} beside the file: labels are the codes of classes")
    if path.suffix == ".json":
        content = load_json(path)
        if not isinstance(content, Mapping):
            raise InvalidOptions(f"{path} holds {type(content).__name__}; a mapping of videos is needed")
        if "database" in content:
            fill(draft, content)
        else:
            numbers = {int(code[1:]): name for code, name in classes.items() if code[1:].isdecimal()}
            fill_numbered(draft, content, numbers)
    else:
        for file, subset in _tables(path).items():
            _read_table(file, subset, draft, classes)
    return draft.finish("charades", tuple(classes.values()) or None)


def _tables(path: Path) -> dict[Path, str]:
    if path.is_dir():
        found = {path / name: subset for name, subset in FILES.items() if (path / name).is_file()}
        if not found:
            raise InvalidOptions(f"{path} holds none of {', '.join(FILES)}")
        return found
    return {path: "test" if "test" in path.stem.lower() else "training"}


def _read_table(path: Path, subset: str, draft: Draft, classes: Mapping[str, str]) -> None:
    for place, row in rows(path, ("id", "actions", "length"), draft):
        video = row["id"]
        draft.video(place, video, subset, draft.positive(place, "length", row["length"]))
        for action in filter(None, (part.strip() for part in row["actions"].split(";"))):
            words = action.split()
            if len(words) != 3:
                draft.report(place, f"action {action!r} is not a class, a start and an end")
                continue
            if classes and words[0] not in classes:
                draft.report(place, f"class {words[0]!r} is none of the {len(classes)} of {CLASSES}")
                continue
            ends = draft.number(place, "start", words[1]), draft.number(place, "end", words[2])
            draft.instance(place, video, ends, classes.get(words[0], words[0]))
