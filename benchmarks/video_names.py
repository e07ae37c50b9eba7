"""Marionette's features in; how likely each video holds each action, by a classifier trained for it, out.

    python -m benchmarks.video_names --folder build/marionette

Detectors of any action need it (`studies.py`): `names/attention.json` and `names/average.json`, in the form of
ActivityNet's published scores, beside the runs of the classifiers that they are of.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from models.catalog import CLASSIFIERS
from service.runtime.session import to_numpy
from training import checkpoints, classifier_run, loop
from training.classifier_run import ClassifierPlan, Finished
from training.plan import configured
from training.run import data_of

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
    done = classifier_run.run(plan, folder, run)
    print(f"{path.stem}: {done.table()}", flush=True)
    path.write_text(json.dumps(scores_of(plan, folder, run, done)), encoding="utf-8")
    return path


def plan_of(kind: str) -> ClassifierPlan:
    document = {
        "name": f"names-{kind}",
        "dataset": {"format": "json", "path": "annotations.json", "train": "training", "validation": "validation"},
        "features": {"folder": "features"},
        "classifier": {"network": kind, "preset": "many", "options": {"hidden": 128}},
        "training": {"epochs": 40, "learning_rate": 0.002, "batch_size": 16, "validate_every_epochs": 10},
    }
    document["dataset"]["test"] = "testing"
    return ClassifierPlan.model_validate_json(json.dumps(document))


@torch.no_grad()
def scores_of(plan: ClassifierPlan, folder: Path, run: Path, done: Finished) -> dict[str, object]:
    data = data_of(plan, folder)
    entry = CLASSIFIERS[plan.classifier.network]
    known = {"input_channels": data.channels, "num_classes": len(done.labels)}
    config = configured(entry.presets[plan.classifier.preset](), plan.classifier.options, known, plan.name)
    network = entry.network(config)
    network.load_state_dict(checkpoints.read(run / loop.WEIGHTS)[0])
    network.eval()
    results: dict[str, list[float]] = {}
    for split in data.splits.values():
        for video in split.ground_truth.videos:
            features = torch.from_numpy(to_numpy(split.load(video).values).T[None].copy())
            mask = torch.ones(1, features.shape[2], dtype=torch.bool)
            results[video] = network.decode(network(features, mask), mask)[0].tolist()
    return {"class": list(done.labels), "results": results}


if __name__ == "__main__":
    main()
