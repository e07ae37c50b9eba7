"""A plan in; a run's folder with weights, curves, predictions and figures out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from service.errors import DeviceUnavailable, InvalidOptions
from service.pipeline.features import FeatureSequence
from training import checkpoints, detector_job, feature_files, loop
from training.datasets import catalog as datasets
from training.detector_job import DetectorJob, Split, Subject
from training.evaluation.annotations import GroundTruth
from training.evaluation.protocols import PROTOCOLS, Protocol, Result
from training.feature_files import FeatureRule, FeatureSettings
from training.loop import Step
from training.plan import FeaturePlan, Plan

PLAN, LABELS, PREDICTIONS, RESULT = "plan.json", "labels.json", "predictions.json", "result.json"


@dataclass(frozen=True)
class Prepared:
    """`test` is what the final figures are of."""

    subject: Subject
    job: DetectorJob
    test: Split
    protocol: Protocol


@dataclass(frozen=True)
class Finished:
    result: Result
    document: Mapping[str, Any]


def run(
    plan: Plan,
    root: Path,
    folder: Path,
    device: str = "auto",
    on_step: Callable[[Step], None] = lambda _: None,
    on_validation: Callable[[int, Mapping[str, float]], None] = lambda *_: None,
    *,
    fresh: bool = False,
) -> Finished:
    """Trains, or goes on training, and judges the final weights. Paths in the plan are looked up from `root`."""
    where = torch.device(choose_device(device))
    prepared = prepare(plan, root)
    if fresh:
        start_afresh(folder)
    _claim(folder, plan)
    _write_json(folder / LABELS, list(prepared.subject.labels))
    done = loop.fit(prepared.job, plan.training, folder, where, on_step, on_validation)
    tensors, _ = checkpoints.read(done.weights)
    prepared.subject.network.load_state_dict(tensors)
    predictions = detector_job.predict(prepared.subject.loaded(prepared.subject.network), prepared.test)
    _write_json(folder / PREDICTIONS, predictions)
    result = detector_job.judge(predictions, prepared.test, prepared.subject.labels, prepared.protocol)
    document = {
        "name": plan.name,
        **result.summary(),
        "by_class": result.by_class(),
        "best_validation": done.best,
        "steps": done.steps,
        "seconds": round(done.seconds, 3),
        "resumed_at_step": done.first_step,
        "device": where.type,
        "torch": torch.__version__,
        "plan": plan.model_dump(mode="json"),
    }
    _write_json(folder / RESULT, document)
    return Finished(result, document)


def prepare(plan: Plan, root: Path) -> Prepared:
    """Reads annotations and the first features; refuses what cannot be trained before the first step."""
    asked = PROTOCOLS[plan.protocol]
    protocol = asked if plan.tious is None else replace(asked, tious=plan.tious)
    train, validation, test = (_split(plan, root, subset) for subset in _subsets(plan))
    labels = detector_job.trained_labels(train.ground_truth, protocol)
    first = train.load(train.ground_truth.videos[0]).values
    if first is None:
        raise InvalidOptions(f"{plan.features.folder}: holds class scores and no features; a detector sees features")
    subject = detector_job.subject_of(plan, labels, first.shape[1])
    validated = validation if plan.dataset.validation else None
    return Prepared(subject, DetectorJob(subject, train, validated, plan, protocol), test, protocol)


def start_afresh(folder: Path) -> None:
    """Removes what a run wrote, and nothing else."""
    for name in (PLAN, LABELS, PREDICTIONS, RESULT, loop.LAST, loop.BEST, loop.WEIGHTS, "curve.csv", "validation.csv"):
        (folder / name).unlink(missing_ok=True)
    for earlier in folder.glob("step-*.safetensors"):
        earlier.unlink()
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)


def choose_device(wanted: str) -> str:
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise DeviceUnavailable(
            "device 'cuda' was asked for, and torch finds no such device; accepted are auto and cpu"
        )
    return "cuda" if there and wanted != "cpu" else "cpu"


def _subsets(plan: Plan) -> tuple[str, str, str]:
    dataset = plan.dataset
    validation = dataset.validation or dataset.test or dataset.train
    return dataset.train, validation, dataset.test or validation


def _split(plan: Plan, root: Path, subset: str) -> Split:
    """The annotations of a subset, and where the features of its videos are."""
    asked = plan.dataset
    dataset = datasets.read(asked.format, root / asked.path, subset, task=asked.task)
    return Split(
        dataset.ground_truth, _loader(plan.features, root / plan.features.folder, dataset.ground_truth, dataset.fps)
    )


def _loader(
    plan: FeaturePlan, source: Path, truth: GroundTruth, fps: Mapping[str, float]
) -> Callable[[str], FeatureSequence]:
    how: FeatureSettings | FeatureRule = plan.rule or feature_files.read_settings(source)
    durations = dict(zip(truth.videos, truth.durations_s.tolist(), strict=True))

    def load(video: str) -> FeatureSequence:
        duration_s = durations[video]
        known = None if duration_s != duration_s else duration_s  # noqa: PLR0124  (NaN: the annotations do not say)
        path = feature_files.find(source, video)
        return feature_files.load(path, how, video=video, duration_s=known, fps=fps.get(video))

    return load


def _claim(folder: Path, plan: Plan) -> None:
    """A folder belongs to one plan: a run that goes on must be the run that began."""
    folder.mkdir(parents=True, exist_ok=True)
    path, wanted = folder / PLAN, plan.model_dump(mode="json")
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        apart = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
        if apart:
            raise InvalidOptions(f"{folder}: began with another plan ({', '.join(apart)} differ); --fresh starts anew")
    _write_json(path, wanted)


def _write_json(path: Path, document: Any) -> None:
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    feature_files.write_atomically(path, text.encode())
