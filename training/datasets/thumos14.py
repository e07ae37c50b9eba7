"""THUMOS14's text files of one class each, or JSON in ActivityNet's form, in; a `Dataset` out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from service.errors import InvalidOptions
from training.datasets.activitynet import fill
from training.datasets.dataset import Dataset, Draft, Options, listed
from training.datasets.files import class_list, first_of, lines, load_json

AMBIGUOUS = "Ambiguous"
FILE = re.compile(r"(?P<label>.+)_(?P<subset>val|test)\.txt")
SUBSETS = {"val": "validation", "test": "test"}
CLASS_LISTS = ("detclasslist.txt", "class_list.txt")
# What others leave out of the test set when they score it.
DOUBTFUL = {"video_test_0000270": "wrong labels", "video_test_0001292": "no instance"}


def read_thumos14(path: Path, options: Options) -> Dataset:
    """A folder of `<Class>_val.txt` and `<Class>_test.txt`, perhaps with detclasslist.txt; or a JSON file."""
    draft = Draft("thumos14", options)
    labels = _read_texts(path, draft) if path.is_dir() else None
    if not path.is_dir():
        fill(draft, load_json(path))
    doubtful = [f"{video} ({reason})" for video, reason in DOUBTFUL.items() if video in draft.durations_s]
    if doubtful:
        draft.notes.append(f"papers leave out {listed(doubtful)}; kept")
    dataset = draft.finish("thumos14", labels)
    return _with_peculiarities(dataset)


def segment_lines(path: Path, draft: Draft) -> Iterator[tuple[str, str, tuple[float, float]]]:
    """(place, video, segment) of lines like `video_test_0000004 0.2 1.1`."""
    for place, words in lines(path):
        if len(words) != 3:
            draft.report(place, f"{' '.join(words)!r} is not a video, a start and an end")
            continue
        yield place, words[0], (draft.number(place, "start", words[1]), draft.number(place, "end", words[2]))


def _read_texts(folder: Path, draft: Draft) -> tuple[str, ...] | None:
    """The instances into the draft; out: the classes of the list, if there is one."""
    files = [(found, path) for path in sorted(folder.iterdir()) if (found := FILE.fullmatch(path.name))]
    if not files:
        raise InvalidOptions(f"{folder} holds no <Class>_val.txt and no <Class>_test.txt, as THUMOS14 has them")
    for found, path in files:
        draft.labels.add(found["label"])
        for place, video, segment_s in segment_lines(path, draft):
            draft.seen(video, SUBSETS[found["subset"]])
            draft.instance(place, video, segment_s, found["label"])
    listing = first_of(folder, *CLASS_LISTS) or first_of(folder.parent, *CLASS_LISTS)
    if listing is None:
        return None
    names = tuple(sorted(class_list(listing, draft).values()))
    lacking = [name for name in names if name not in draft.labels]
    if lacking:
        draft.notes.append(f"{listing.name} names classes without a file: {listed(lacking)}")
    return (*names, AMBIGUOUS) if AMBIGUOUS in draft.labels else names


def _with_peculiarities(dataset: Dataset) -> Dataset:
    truth = dataset.ground_truth
    columns = zip(truth.video_indices, truth.segments_s, truth.label_indices, strict=True)
    found: dict[str, list[tuple[int, float, float]]] = {}
    for video, (start_s, end_s), label in columns:
        found.setdefault(truth.labels[label], []).append((int(video), float(start_s), float(end_s)))
    notes = []
    cliffs = found.get("CliffDiving", [])
    if cliffs:
        both = len(set(cliffs) & set(found.get("Diving", [])))
        notes.append(f"CliffDiving is a kind of Diving: {both} of its {len(cliffs)} instances carry both labels; kept")
    if AMBIGUOUS in found:
        notes.append(f"{len(found[AMBIGUOUS])} instances are {AMBIGUOUS}: not to be trained on, spared when scored")
    return Dataset(dataset.name, truth, dataset.fps, dataset.protocol, (*dataset.notes, *notes), dataset.subsets)
