"""Marionette's features in; how likely each video holds each action, by a classifier trained for it, out.

    python -m benchmarks.video_names --folder build/marionette

Detectors of any action need it (`studies.py`): `names/attention.json` and `names/average.json`, in the form of
ActivityNet's published scores, beside the runs of the classifiers that they are of.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from training import classifier_run
from training.classifier_run import ClassifierPlan
from training.run import VIDEO_SCORES

KINDS = ("attention", "average")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("build/marionette"))
    folder = parser.parse_args().folder.resolve()
    for kind in KINDS:
        make(folder, f"names/{kind}.json")


def make(folder: Path, scores: str) -> Path:
    """The file at `scores` in the folder, made unless it is there; its name is the classifier's."""
    path = folder / scores
    if path.exists():
        return path
    run = path.with_suffix("")
    plan = plan_of(path.stem)
    print(f"{path.stem}: {classifier_run.run(plan, folder, run).table()}", flush=True)
    shutil.copy(run / VIDEO_SCORES, path)
    return path


def plan_of(kind: str) -> ClassifierPlan:
    dataset = {"format": "json", "path": "annotations.json", "train": "training", "validation": "validation"}
    document = {
        "name": f"names-{kind}",
        "dataset": {**dataset, "test": "testing"},
        "features": {"folder": "features"},
        "classifier": {"network": kind, "preset": "many", "options": {"hidden": 128}},
        "training": {"epochs": 40, "learning_rate": 0.002, "batch_size": 16, "validate_every_epochs": 10},
    }
    return ClassifierPlan.model_validate_json(json.dumps(document))


if __name__ == "__main__":
    main()
