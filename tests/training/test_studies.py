"""What is compared on Marionette: every run is one that can be trained, and the tables say what the records say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import detectors, still_parts, two_streams
from benchmarks.detectors import Task
from benchmarks.studies import STUDIES, Row, Study
from training import static_parts
from training.detector_job import subject_of

TASKS = detectors.tasks(STUDIES)


@pytest.mark.parametrize("task", [task for task in TASKS if task.seed == 0], ids=lambda task: task.name)
def test_every_run_of_every_study_can_be_built(task: Task) -> None:
    channels = sum(task.plan.detector.options.get("input_channels", [256]))
    subject = subject_of(task.plan, tuple(f"action {number}" for number in range(12)), channels)
    proposes = task.row.network in {"bmn", "gtad", "rcl"}
    assert subject.network.config.num_classes == (1 if proposes else 12)


def test_a_run_is_trained_once_whatever_shows_it() -> None:
    plans: dict[str, Any] = {}
    for study in STUDIES:
        for row in study.rows:
            plan = Task(row, 0).plan
            assert plans.setdefault(row.run, plan) == plan, f"{row.run} has two meanings"
    assert len({task.name for task in TASKS}) == len(TASKS)
    assert [task.seed for task in TASKS] == sorted(task.seed for task in TASKS)


def record(run: str, average: float, seconds: float = 60.0) -> dict[str, Any]:
    return {"run": run, "average": average, "mAP": dict.fromkeys(detectors.TIOUS, average), "seconds": seconds}


STUDY = Study(
    "parts",
    "Parts",
    "What each adds.",
    (
        Row("plain", "asl", "plain", published=60.0),
        Row("better", "asl", "better", seeds=(0, 1, 2), published=61.5),
        Row("missing", "asl", "missing", published=62.0),
    ),
)


def test_a_table_shows_means_spreads_and_both_differences() -> None:
    known = [record("plain-seed0", 0.5), *(record(f"better-seed{seed}", 0.5 + 0.01 * seed) for seed in range(3))]
    lines = detectors.table(STUDY, {one["run"]: one for one in known}).splitlines()
    assert lines[:3] == ["## Parts", "", "What each adds."]
    plain, better = (line.split(" | ") for line in lines[-2:])
    assert plain[0] == "| plain"
    assert plain[6:] == ["50.00", "", "1", "60", "60", "", " |"]
    assert better[6:] == ["51.00", "1.00", "3", "60", "61.5", "+1.50", "+1.00 |"]


def test_a_study_without_published_figures_shows_none() -> None:
    study = Study("x", "X", "", (Row("plain", "asl", "plain"),))
    assert "published" not in detectors.table(study, {"plain-seed0": record("plain-seed0", 0.5)})


def test_a_record_counts_as_long_as_no_setting_of_it_changed() -> None:
    recorded = {"training": {"epochs": 3, "betas": [0.9, 0.999]}, "name": "x"}
    assert detectors._agrees(recorded, {**recorded, "later": 1})
    assert not detectors._agrees(recorded, {"training": {"epochs": 4, "betas": [0.9, 0.999]}, "name": "x"})
    assert not detectors._agrees(recorded, {"name": "x"})


def test_what_takes_the_weights_of_another_run_takes_those_of_one_that_is_trained_with_the_same_seeds() -> None:
    trained = {task.name for task in TASKS if task.row.weights_of is None}
    judged = [task for task in TASKS if task.row.weights_of is not None]
    assert judged
    for task in judged:
        assert f"{task.row.weights_of}-seed{task.seed}" in trained
        assert task.name not in trained


def test_flow_of_a_snippet_is_that_of_its_frames() -> None:
    found = two_streams.flow(np.arange(11.0), rows=3)
    assert found.tolist() == [[*range(8)], [*range(2, 10)], [*range(4, 11), 10]]


def test_still_parts_are_told_by_how_much_of_them_is_action(tmp_path: Path) -> None:
    moving = np.ones(400)
    moving[100:140] = 0.0  # 4 s at 10 a second, the first three of an action
    (tmp_path / "motion").mkdir()
    np.savez(tmp_path / "motion" / "v.npz", intensity=moving, frame_times_s=np.arange(400) / 10)
    annotations = [{"segment": [8.0, 13.0], "label": "wave"}]
    video = {"subset": "training", "duration": 40.0, "annotations": annotations}
    (tmp_path / "annotations.json").write_text(json.dumps({"database": {"v": video}}))

    still_parts.make(tmp_path)
    published = next(line for line in still_parts.table(tmp_path).splitlines() if line.startswith("| below"))
    motion = static_parts.read(tmp_path / still_parts.OUTSIDE, "v")
    left = static_parts.static_frames(motion, static_parts.StaticRule(least_s=0.5))

    assert published == "| below percentile 25 | median | 2 s | 1 | 10.0 % | 75.0 % |"
    assert np.flatnonzero(left).tolist() == [*range(130, 140)]


def test_a_table_of_classes_and_one_of_costs() -> None:
    known = {"plain-seed0": record("plain-seed0", 0.5) | {"by_class": {"b": {"0.5": 0.4}, "a": {"0.5": 0.6}}}}
    rows = (Row("plain", "bmn", "plain"),)
    header, _, line = detectors.table(Study("x", "X", "", rows, by_class=True), known).splitlines()[-3:]
    assert header.startswith("|  | a | b | average |")
    assert line.startswith("| plain | 60.00 | 40.00 | 50.00 |")
    header, _, line = detectors.table(Study("x", "X", "", rows, costs=True), known).splitlines()[-3:]
    assert header.endswith("| 10⁹ multiply-adds a window |")
    assert float(line.split(" | ")[-1].removesuffix(" |")) > 0.1
