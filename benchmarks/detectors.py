"""Marionette in; every run of `studies.py` trained, recorded when it is done, and printed beside its paper, out.

    make train-all                                        # everything that is not on record yet
    python -m benchmarks.detectors --folder F --only asl  # the runs whose names begin so

A run is recorded in `results/detectors.jsonl`, a line each, as soon as it is judged; what is on record with the same
settings is not trained again, and a run that was stopped goes on from its last checkpoint. Rows that take the weights
of another run need its folder.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import still_parts, two_streams, video_names
from benchmarks.multiply_adds import multiply_adds
from benchmarks.studies import STUDIES, Row, Study
from training import detector_job, loop, run_folder, worker_life
from training import plan as plans
from training import run as runs
from training.plan import Plan

RESULTS = Path(__file__).parent / "results"
RECORD, TABLES = RESULTS / "detectors.jsonl", RESULTS / "detectors.md"
TIOUS = ("0.3", "0.4", "0.5", "0.6", "0.7")
DATASET = {"format": "json", "path": "annotations.json", "train": "training", "validation": "validation"}


@dataclass(frozen=True)
class Task:
    """One run with one seed."""

    row: Row
    seed: int

    @property
    def name(self) -> str:
        return f"{self.row.run}-seed{self.seed}"

    @property
    def plan(self) -> Plan:
        document = {
            "preset": f"{self.row.network}/marionette",
            "name": self.row.run,
            "dataset": {**DATASET, "test": "testing"},
            "features": {"folder": "features"},
            **self.row.changes,
        }
        return plans.parse(document, {"seed": self.seed}, self.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("build/marionette"))
    parser.add_argument("--only", nargs="*", default=[""], help="beginnings of the names of runs")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side; they share the cores")
    asked = parser.parse_args()
    known = _recorded()
    missing = [
        task
        for task in tasks(STUDIES)
        if task.name.startswith(tuple(asked.only)) and not _is_current(known.get(task.name), task)
    ]
    for needed in ("features", "motion"):
        if missing and not (asked.folder / needed).is_dir():
            raise SystemExit(f"{asked.folder / needed} is not there: make train-all makes it")
    threads = max(1, (os.cpu_count() or 1) // asked.jobs)
    work = partial(train, folder=asked.folder.resolve(), threads=threads)
    spawn = multiprocessing.get_context("spawn")
    if any(task.plan.features.folder == two_streams.FOLDER for task in missing):
        two_streams.make(asked.folder.resolve())
    if any(task.plan.static is not None and task.plan.static.folder == still_parts.OUTSIDE for task in missing):
        still_parts.make(asked.folder.resolve())
    # What others' weights are judged for comes when these have been trained.
    trained = [task for task in missing if task.row.weights_of is None]
    judged = [task for task in missing if task.row.weights_of is not None]
    for scores in sorted({task.plan.video_scores.path for task in judged if task.plan.video_scores is not None}):
        video_names.make(asked.folder.resolve(), scores)
    with ProcessPoolExecutor(asked.jobs, spawn, initializer=worker_life.end_with_parent) as pool:
        for part in (trained, judged):
            for done in as_completed([pool.submit(work, task) for task in part]):
                record = done.result()
                known[record["run"]] = record
                RECORD.write_text("".join(json.dumps(known[name]) + "\n" for name in sorted(known)), encoding="utf-8")
                print(f"{record['run']}: {100 * record['average']:.2f}", flush=True)
    text = "\n\n".join(["# Detectors on Marionette", *(table(study, known) for study in STUDIES)]) + "\n"
    TABLES.write_text(text, encoding="utf-8")


def tasks(studies: Sequence[Study]) -> list[Task]:
    """Every run once, whatever number of studies shows it; the first seeds of all come first."""
    found: dict[str, Task] = {}
    for study in studies:
        for row in study.rows:
            for seed in row.seeds:
                task = Task(row, seed)
                found.setdefault(task.name, task)
    return sorted(found.values(), key=lambda task: task.seed)


def train(task: Task, folder: Path, threads: int) -> dict[str, Any]:
    """Goes on in the run's folder, unless that holds a run of other settings."""
    torch.set_num_threads(threads)
    target, wanted = folder / "runs" / task.name, task.plan
    kept = ("average", "mAP", "by_class", "steps", "seconds", "device", "torch", "plan")
    if task.row.weights_of is not None:
        weights = folder / "runs" / f"{task.row.weights_of}-seed{task.seed}" / loop.WEIGHTS
        document = runs.judge_again(wanted, folder, weights, target).document
        return {"run": task.name, **{key: document[key] for key in kept if key in document}}
    began = target / run_folder.PLAN
    fresh = began.exists() and not _agrees(
        json.loads(began.read_text(encoding="utf-8")), wanted.model_dump(mode="json")
    )
    document = runs.run(wanted, folder, target, fresh=fresh).document
    return {"run": task.name, "threads": threads, **{key: document[key] for key in kept}}


def table(study: Study, known: Mapping[str, Mapping[str, Any]]) -> str:
    """Rows without a recorded run are left out; differences are to the first row."""
    published = any(row.published is not None for row in study.rows)
    columns = ["", *_columns(study, known), "average", "spread", "seeds", "training, s"]
    columns += ["10⁹ multiply-adds a window"] if study.costs else []
    columns += ["published", "published difference", "our difference"] if published else []
    lines = [f"| {' | '.join(columns)} |", f"|---|{'---:|' * (len(columns) - 1)}"]
    first: float | None = None
    for row in study.rows:
        found = [known[task.name] for task in (Task(row, seed) for seed in row.seeds) if task.name in known]
        if not found:
            continue
        average = statistics.mean(100 * record["average"] for record in found)
        first = average if first is None else first
        cells = [row.name, *_figures(found, by_class=study.by_class)]
        if study.costs:
            cells.append(f"{_cost(Task(row, 0).plan) / 1e9:.2f}")
        if published:
            cells += list(_differences(row, study.rows[0], average - first))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([f"## {study.title}", "", study.about, "", *lines])


def _columns(study: Study, known: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if not study.by_class:
        return [f"mAP@{tiou}" for tiou in TIOUS]
    names = (Task(row, seed).name for row in study.rows for seed in row.seeds)
    return next((sorted(known[name]["by_class"]) for name in names if name in known), [])


def _figures(found: Sequence[Mapping[str, Any]], *, by_class: bool) -> Iterator[str]:
    averages = [100 * record["average"] for record in found]
    shown = [_means_by_class(record) if by_class else record["mAP"] for record in found]
    for column in sorted(shown[0]) if by_class else TIOUS:
        yield f"{100 * statistics.mean(figures[column] for figures in shown):.2f}"
    yield f"{statistics.mean(averages):.2f}"
    yield f"{statistics.stdev(averages):.2f}" if len(averages) > 1 else ""
    yield str(len(found))
    seconds = [record["seconds"] for record in found if "seconds" in record]
    yield f"{statistics.mean(seconds):.0f}" if seconds else ""


def _means_by_class(record: Mapping[str, Any]) -> dict[str, float]:
    return {label: statistics.mean(figures.values()) for label, figures in record["by_class"].items()}


def _cost(plan: Plan) -> int:
    """Multiply-adds of a window."""
    with torch.device("meta"):
        subject = detector_job.subject_of(plan, ("action",), two_streams.CHANNELS[0])
    return multiply_adds(subject.network.to("meta"))


def _differences(row: Row, first: Row, ours: float) -> Iterator[str]:
    theirs = math.nan if row.published is None or first.published is None else row.published - first.published
    yield "" if row.published is None else f"{row.published:g}"
    yield "" if row is first or math.isnan(theirs) else f"{theirs:+.2f}"
    yield "" if row is first else f"{ours:+.2f}"


def _recorded() -> dict[str, dict[str, Any]]:
    if not RECORD.exists():
        return {}
    found = (json.loads(line) for line in RECORD.read_text(encoding="utf-8").splitlines())
    return {record["run"]: record for record in found}


def _is_current(record: Mapping[str, Any] | None, task: Task) -> bool:
    """Whether the record is of these settings; one that came to be later does not count, if it was not on record."""
    return record is not None and _agrees(record["plan"], task.plan.model_dump(mode="json"))


def _agrees(recorded: Any, wanted: Any) -> bool:
    if isinstance(recorded, Mapping) and isinstance(wanted, Mapping):
        return all(key in wanted and _agrees(value, wanted[key]) for key, value in recorded.items())
    return bool(recorded == wanted)


if __name__ == "__main__":
    main()
