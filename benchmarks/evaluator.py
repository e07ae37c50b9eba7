"""Generated ground truth and predictions in; how long their evaluation takes, as a table and JSON, out.

The bound is what a training run can pay after every epoch. With --official, a Python 3 form of ActivityNet's published
eval_detection.py (with its utils.py beside it; it needs pandas and joblib) runs on the same files in turns with ours.
It takes minutes for thousands of predictions, so that comparison is made at a share of the size. The best round
counts: other programs on the machine only ever add time.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from training.evaluation.annotations import read_ground_truth, read_predictions
from training.evaluation.diagnosis import diagnose
from training.evaluation.protocols import Protocol, evaluate

RESULTS = Path(__file__).parent / "results"
RULES = Protocol("plain", tuple(hundredths / 100 for hundredths in range(50, 100, 5)))
BOUND_S = 10.0
VIDEO_S = 200.0


@dataclass(frozen=True)
class Size:
    videos: int = 5000
    detections: int = 100  # per video
    instances: int = 15  # per video
    classes: int = 20

    def scaled(self, share: float) -> Size:
        return Size(max(1, round(self.videos * share)), self.detections, self.instances, self.classes)


def write_files(size: Size, folder: Path, seed: int = 0) -> tuple[Path, Path]:
    """Instances at random, and predictions of which half lie about an instance, most of them under its label."""
    random = np.random.default_rng(seed)
    database, results = {}, {}
    for index in range(size.videos):
        starts_s = random.uniform(0, VIDEO_S * 0.8, size.instances)
        true_s = np.column_stack([starts_s, starts_s + random.uniform(1, VIDEO_S * 0.2, size.instances)])
        labels = random.integers(size.classes, size=size.instances)
        segments_s, predicted = _predict(true_s, labels, size, random)
        scores = random.uniform(size=size.detections)
        database[f"v{index}"] = {
            "subset": "validation",
            "duration": VIDEO_S,
            "annotations": [_item(segment, label) for segment, label in zip(true_s, labels, strict=True)],
        }
        results[f"v{index}"] = [
            _item(segment, label) | {"score": float(score)}
            for segment, label, score in zip(segments_s, predicted, scores, strict=True)
        ]
    truth, found = folder / "truth.json", folder / "found.json"
    truth.write_text(json.dumps({"version": "", "taxonomy": [], "database": database}))
    found.write_text(json.dumps({"version": "", "external_data": {}, "results": results}))
    return truth, found


def _predict(true_s: np.ndarray, labels: np.ndarray, size: Size, random: np.random.Generator) -> tuple[Any, Any]:
    near = random.integers(size.instances, size=size.detections)
    about_s = true_s[near] + random.normal(0, 3, (size.detections, 2))
    starts_s = random.uniform(0, VIDEO_S * 0.8, size.detections)
    anywhere_s = np.column_stack([starts_s, starts_s + random.uniform(1, VIDEO_S * 0.2, size.detections)])
    chosen = (np.arange(size.detections) % 2 == 0)[:, None]
    segments_s = np.clip(np.sort(np.where(chosen, about_s, anywhere_s), axis=1), 0, VIDEO_S)
    segments_s[:, 1] = np.maximum(segments_s[:, 1], segments_s[:, 0] + 0.1)
    right = random.uniform(size=size.detections) < 0.8
    return segments_s.clip(0, VIDEO_S + 0.005), np.where(
        right, labels[near], random.integers(size.classes, size=size.detections)
    )


def _item(segment_s: np.ndarray, label: int) -> dict[str, Any]:
    return {"segment": [float(segment_s[0]), float(segment_s[1])], "label": f"class {label}"}


@contextmanager
def _clocked(part: str, seconds: dict[str, float]) -> Iterator[None]:
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    yield
    seconds[f"{part}_s"] = time.perf_counter() - started_s
    seconds[f"{part}_cpu_s"] = time.process_time() - started_cpu_s


def measure(truth_file: Path, found_file: Path) -> dict[str, float]:
    """Seconds of every part, and the average mAP."""
    seconds: dict[str, float] = {}
    with _clocked("read", seconds):
        truth = read_ground_truth(truth_file, "validation")
        found = read_predictions(found_file, truth)
    with _clocked("evaluate", seconds):
        average = evaluate(truth, found, RULES).average
    with _clocked("diagnose", seconds):
        diagnose(truth, found, RULES)
    return seconds | {"average_mAP": average}


def load_official(path: Path) -> ModuleType:
    sys.path.insert(0, str(path.parent.resolve()))
    return importlib.import_module(path.stem)


def run_official(module: ModuleType, truth_file: Path, found_file: Path) -> float:
    detection = module.ANETdetection(
        str(truth_file), str(found_file), subset="validation", tiou_thresholds=np.array(RULES.tious), check_status=False
    )
    detection.evaluate()
    return float(detection.average_mAP)


def _run_ours(truth_file: Path, found_file: Path) -> float:
    truth = read_ground_truth(truth_file, "validation")
    return evaluate(truth, read_predictions(found_file, truth), RULES).average


def _timed(call: Callable[[], float]) -> tuple[float, float]:
    started_s = time.perf_counter()
    value = call()
    return time.perf_counter() - started_s, value


def compare(module: ModuleType, size: Size, rounds: int) -> dict[str, Any]:
    """Both evaluators from the files to the average mAP, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(size, Path(folder))
        turns = [
            (_timed(lambda: run_official(module, *files)), _timed(lambda: _run_ours(*files))) for _ in range(rounds)
        ]
    official_s = min(theirs[0] for theirs, _ in turns)
    ours_s = min(ours[0] for _, ours in turns)
    return {
        "size": asdict(size),
        "official_s": round(official_s, 3),
        "ours_s": round(ours_s, 3),
        "official_to_ours": round(official_s / ours_s, 1),
        "difference_of_average_mAP": max(abs(theirs[1] - ours[1]) for theirs, ours in turns),
    }


def measure_rounds(size: Size, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(size, Path(folder))
        all_rounds = [measure(*files) for _ in range(rounds)]
    return {key: round(min(one[key] for one in all_rounds), 3) for key in all_rounds[0]}


def text_of(result: dict[str, Any]) -> str:
    ours, (before, after) = result["seconds"], result["load"]
    setting = f"{result['cores']} cores, load {before:.1f} before and {after:.1f} after"
    rows = {
        "read and check both JSON files": "read",
        "average precision": "evaluate",
        "diagnosis": "diagnose",
    }
    lines = [
        "# The evaluator: mAP of many predictions",
        "",
        f"`python -m benchmarks.evaluator --rounds {result['rounds']}`",
        "",
        f"{_about(result['size'])}, {len(RULES.tious)} thresholds; the best of {result['rounds']} rounds; {setting}.",
        "A load above the number of cores means that other programs slowed it; CPU time tells how much.",
        "",
        "| part | s | CPU s |",
        "|---|---:|---:|",
        *(f"| {name} | {ours[f'{part}_s']} | {ours[f'{part}_cpu_s']} |" for name, part in rows.items()),
        "",
        f"Bound for average precision: {BOUND_S:g} s, {'met' if result['bound_met'] else 'NOT MET'}.",
        "",
    ]
    return "\n".join(lines + (_official_text(result["official"]) if "official" in result else []))


def _official_text(official: dict[str, Any]) -> list[str]:
    seconds = f"{official['official_s']} s and {official['ours_s']} s"
    return [
        "## Against ActivityNet's published evaluator",
        "",
        f"In turns on the same files, from JSON to average mAP, at a smaller size ({_about(official['size'])}):",
        f"{seconds}, **{official['official_to_ours']} times**.",
        f"The average mAP differs by {official['difference_of_average_mAP']:.1e}.",
        "",
    ]


def _about(size: dict[str, int]) -> str:
    predictions, instances = (size["videos"] * size[name] for name in ("detections", "instances"))
    return f"{size['videos']} videos, {predictions} predictions, {instances} instances, {size['classes']} classes"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0, help="of the full size")
    parser.add_argument("--official", type=Path, help="ActivityNet's eval_detection.py in a Python 3 form")
    parser.add_argument("--official-share", type=float, default=0.02, help="of the full size, for the comparison")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    size, before = Size().scaled(options.share), os.getloadavg()[0]
    seconds = measure_rounds(size, options.rounds)
    result: dict[str, Any] = {
        "size": asdict(size),
        "seconds": seconds,
        "bound_s": BOUND_S,
        "bound_met": seconds["evaluate_s"] <= BOUND_S,
        "rounds": options.rounds,
        "cores": len(os.sched_getaffinity(0)),
        "load": [before, os.getloadavg()[0]],
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    if options.official is not None:
        small = Size().scaled(options.official_share)
        result["official"] = compare(load_official(options.official), small, options.rounds)
    text = text_of(result)
    (options.output / "evaluator.md").write_text(text)
    (options.output / "evaluator.json").write_text(json.dumps(result, indent=2) + "\n")
    print(text)


if __name__ == "__main__":
    main()
