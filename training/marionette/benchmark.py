"""A seed and numbers of videos in, a folder of videos with their truth in ActivityNet's form out; resumable."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.errors import InvalidOptions
from training import worker_life
from training.marionette import encode, render
from training.marionette.motions import LABELS
from training.marionette.script import Script, Split, write

GENERATION = 1  # of what scripts and pictures look like; a folder of another one is not continued
SUBSETS: Mapping[Split, str] = {"train": "training", "val": "validation", "test": "testing"}
TRUTH, VIDEOS = "annotations.json", "videos"
PART = ".part"

OnVideo = Callable[[int, int], None]


@dataclass(frozen=True)
class Plan:
    """How many videos of each split; the seed draws them all."""

    train: int
    val: int
    test: int
    seed: int

    def __post_init__(self) -> None:
        counts = {"train": self.train, "val": self.val, "test": self.test, "seed": self.seed}
        wrong = [f"{name} is {value}" for name, value in counts.items() if value < 0]
        if wrong or not (self.train or self.val or self.test):
            raise InvalidOptions(f"{', '.join(wrong) or 'no video is asked for'}; whole numbers from 0 are accepted")

    @property
    def scripts(self) -> Iterator[Script]:
        counts: dict[Split, int] = {"train": self.train, "val": self.val, "test": self.test}
        for split, count in counts.items():
            for number in range(count):
                yield write(split, number, self.seed)


def generate(folder: Path, plan: Plan, workers: int = 1, on_video: OnVideo | None = None) -> Path:
    """Renders what is missing and gives the path of the truth, which is written first and is the same at every run."""
    scripts = list(plan.scripts)
    truth_path, videos = folder / TRUTH, folder / VIDEOS
    if not truth_path.exists() and videos.is_dir() and any(videos.iterdir()):
        raise InvalidOptions(f"{videos} holds files of which {truth_path} would say what they are; empty it first")
    _write_truth(truth_path, truth(scripts, plan.seed), plan)
    videos.mkdir(exist_ok=True)
    for leftover in videos.glob(f"*{PART}"):
        leftover.unlink()
    missing = [script for script in scripts if not (videos / script.file_name).exists()]
    done = len(scripts) - len(missing)
    for finished in _rendered(missing, videos, workers):
        done += finished
        if on_video:
            on_video(done, len(scripts))
    return truth_path


def truth(scripts: list[Script], seed: int) -> dict[str, Any]:
    """{"database": …} as ActivityNet has it, with each video's file name and frame rate beside it."""
    return {
        "version": f"marionette {GENERATION}, seed {seed}",
        "labels": list(LABELS),
        "database": {
            script.name: {
                "subset": SUBSETS[script.split],
                "duration": encode.duration_s(script),
                "fps": script.storage.fps,
                "file": script.file_name,
                "annotations": [
                    {"label": event.label, "segment": [event.start_s, event.end_s]} for event in script.instances
                ],
            }
            for script in scripts
        },
    }


def render_video(script: Script, path: Path) -> None:
    """One video, whole or not at all."""
    part = path.with_name(path.name + PART)
    shown_s = encode.times_s(script)
    encode.encode(part, script.storage, render.frames(script, iter(shown_s)), shown_s)
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(path)


def _rendered(scripts: list[Script], videos: Path, workers: int) -> Iterator[int]:
    """1 for every video that is done. Workers are fresh interpreters: forking one that has threads can hang."""
    if workers <= 1 or len(scripts) <= 1:
        for script in scripts:
            render_video(script, videos / script.file_name)
            yield 1
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, initializer=worker_life.end_with_parent) as pool:
        futures = [pool.submit(render_video, script, videos / script.file_name) for script in scripts]
        try:
            for future in as_completed(futures):
                future.result()
                yield 1
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _write_truth(path: Path, content: dict[str, Any], plan: Plan) -> None:
    text = json.dumps(content, indent=1)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise InvalidOptions(
            f"{path} is of another seed, other numbers of videos or another version of the generator than "
            f"{plan}; give another folder, or remove {path.parent} whole"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + PART)
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise InvalidOptions(f"{path.parent} cannot be written: {error.strerror or error}") from error
