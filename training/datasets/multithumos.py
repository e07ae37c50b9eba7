"""MultiTHUMOS's text files of one class each, or one of the two JSON forms of others, in; a `Dataset` out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from service.errors import InvalidOptions
from training.datasets.activitynet import fill
from training.datasets.dataset import Dataset, Draft, Options
from training.datasets.files import class_list, first_of, folder_of, load_json
from training.datasets.multilabel import fill_numbered
from training.datasets.thumos14 import segment_lines

CLASS_LIST = "class_list.txt"


def read_multithumos(path: Path, options: Options) -> Dataset:
    """A folder of `<Class>.txt` with class_list.txt in it or above it; or a JSON file, class_list.txt beside it."""
    draft = Draft("multithumos", options)
    folder = folder_of(path)
    listing = first_of(folder, CLASS_LIST) or first_of(folder.parent, CLASS_LIST)
    classes = {} if listing is None else class_list(listing, draft)
    if path.is_dir():
        _read_texts(path, draft)
    else:
        _read_json(path, draft, classes)
    return draft.finish("multithumos", tuple(classes.values()) or None)


def _read_texts(folder: Path, draft: Draft) -> None:
    files = [path for path in sorted(folder.glob("*.txt")) if path.name != CLASS_LIST]
    if not files:
        raise InvalidOptions(f"{folder} holds no <Class>.txt, as MultiTHUMOS has them")
    for path in files:
        for place, video, segment_s in segment_lines(path, draft):
            draft.seen(video, "validation" if video.startswith("video_validation") else "test")
            draft.instance(place, video, segment_s, path.stem)


def _read_json(path: Path, draft: Draft, classes: Mapping[str, str]) -> None:
    content = load_json(path)
    if not isinstance(content, Mapping):
        raise InvalidOptions(f"{path} holds {type(content).__name__}; a mapping is needed")
    if "database" in content:
        fill(draft, content)
        return
    if not classes:
        draft.notes.append(f"no {CLASS_LIST} beside the file: labels are the numbers of classes, from 1 on")
    fill_numbered(draft, content, {int(number): name for number, name in classes.items() if number.isdecimal()})
