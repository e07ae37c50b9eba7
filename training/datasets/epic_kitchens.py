"""EPIC_100_train.csv and EPIC_100_validation.csv, with the files beside them, in; a `Dataset` out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from service.errors import InvalidOptions
from training.datasets.activitynet import fill
from training.datasets.dataset import Dataset, Draft, Mending, Options
from training.datasets.files import first_of, folder_of, load_json, rows

FILES = {"EPIC_100_train.csv": "training", "EPIC_100_validation.csv": "validation"}
VIDEOS = "EPIC_100_video_info.csv"
COLUMNS = ("narration_id", "video_id", "start_timestamp", "stop_timestamp", "verb_class", "noun_class")
TASKS = ("verb", "noun", "action")
Videos = Mapping[str, tuple[float, float]]  # duration in seconds, frames a second


def read_epic_kitchens(path: Path, options: Options) -> Dataset:
    """The folder of the files, one of them, or JSON in ActivityNet's form of one task.

    A label is the class's key, or its number where no file names it; that of an action is verb and noun.
    """
    if options.task not in TASKS:
        raise InvalidOptions(f"task {options.task!r} is not known; accepted are {', '.join(TASKS)}")
    draft = Draft(f"epic-kitchens-100 {options.task}", options, Mending(reversed=True))
    if path.suffix == ".json":
        fill(draft, load_json(path))
        return draft.finish("epic")
    folder = folder_of(path)
    reading = _Reading(draft, _classes(folder, "verb", draft), _classes(folder, "noun", draft), _videos(folder, draft))
    for file, subset in _tables(path).items():
        reading.read(file, subset)
    known = {"verb": reading.verbs, "noun": reading.nouns}.get(options.task)
    return draft.finish("epic", tuple(known.values()) if known else None)


@dataclass(frozen=True)
class _Reading:
    draft: Draft
    verbs: Mapping[str, str]
    nouns: Mapping[str, str]
    videos: Videos

    def read(self, path: Path, subset: str) -> None:
        narrations: set[str] = set()
        for place, row in rows(path, COLUMNS, self.draft):
            if row["narration_id"] in narrations:
                self.draft.report(place, f"narration_id {row['narration_id']!r} is there already; each may come once")
            narrations.add(row["narration_id"])
            self._row(place, row, subset)

    def _row(self, place: str, row: Mapping[str, str], subset: str) -> None:
        video = row["video_id"]
        duration_s, fps = self.videos.get(video, (math.nan, math.nan))
        self.draft.seen(video, subset, duration_s)
        if not math.isnan(fps):
            self.draft.fps[video] = fps
        ends = self._seconds(place, row, "start_timestamp"), self._seconds(place, row, "stop_timestamp")
        label = self._label(place, row)
        if label is not None:
            self.draft.instance(place, video, ends, label)

    def _label(self, place: str, row: Mapping[str, str]) -> str | None:
        parts = {"verb": ("verb",), "noun": ("noun",), "action": ("verb", "noun")}[self.draft.options.task]
        names = [self._name(place, part, row[f"{part}_class"].strip()) for part in parts]
        return " ".join(name for name in names if name is not None) if None not in names else None

    def _name(self, place: str, part: str, number: str) -> str | None:
        names = self.verbs if part == "verb" else self.nouns
        if not number.isdecimal() or (names and number not in names):
            self.draft.report(place, f"{part}_class is {number!r}; the number of a class is needed")
            return None
        return names.get(number, number if self.draft.options.task != "action" else f"{part}-{number}")

    def _seconds(self, place: str, row: Mapping[str, str], column: str) -> float:
        """Seconds of a time like 00:01:02.34."""
        parts = row[column].split(":")
        try:
            hours, minutes, seconds = (float(part) for part in parts)
        except ValueError:
            self.draft.report(place, f"{column} is {row[column]!r}; a time like 00:01:02.34 is needed")
            return math.nan
        return self.draft.number(place, column, round(hours * 3600 + minutes * 60 + seconds, 6))


def _classes(folder: Path, part: str, draft: Draft) -> dict[str, str]:
    path = first_of(folder, f"EPIC_100_{part}_classes.csv", f"EPIC_100_{part}_classes_v2.csv")
    if path is None:
        if draft.options.task in {part, "action"}:
            draft.notes.append(
                f"no EPIC_100_{part}_classes.csv beside the file: labels are the numbers of {part} classes"
            )
        return {}
    return {row["id"]: row["key"] for _, row in rows(path, ("id", "key"), draft)}


def _videos(folder: Path, draft: Draft) -> dict[str, tuple[float, float]]:
    path = first_of(folder, VIDEOS)
    if path is None:
        draft.notes.append(f"no {VIDEOS} beside the file: durations and frame rates are unknown")
        return {}
    return {
        row["video_id"]: (
            draft.positive(place, "duration", row["duration"]),
            draft.positive(place, "fps", row["fps"]),
        )
        for place, row in rows(path, ("video_id", "duration", "fps"), draft)
    }


def _tables(path: Path) -> dict[Path, str]:
    if not path.is_dir():
        return {path: "validation" if "val" in path.stem.lower() else "training"}
    found = {path / name: subset for name, subset in FILES.items() if (path / name).is_file()}
    if not found:
        raise InvalidOptions(f"{path} holds none of {', '.join(FILES)}")
    return found
