"""A plan for a classifier of whole videos in; its weights, labels, curve and figures in a folder out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, model_validator

from models.catalog import CLASSIFIERS
from models.classifiers.video_classifier import VideoClassifier
from models.schema import Count, Part
from service.errors import InvalidOptions
from training import checkpoints, loop
from training.classifier_job import ClassifierJob, ClassifierRules
from training.detector_job import Split, trained_labels
from training.evaluation.protocols import PROTOCOLS
from training.loop import LoopConfig, Step
from training.plan import DataPlan, check_options, configured, read_as
from training.run import LABELS, RESULT, VIDEO_SCORES, choose_device, data_of, start_afresh
from training.run_folder import claim, sole_writer, write_json

Text = Annotated[str, Field(min_length=1)]


class ClassifierPart(Part):
    network: Text
    preset: Text
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_in_the_catalogue(self) -> ClassifierPart:
        if self.network not in CLASSIFIERS:
            raise ValueError(f"classifier {self.network!r} is not known; accepted are {', '.join(CLASSIFIERS)}")
        presets = CLASSIFIERS[self.network].presets
        if self.preset not in presets:
            raise ValueError(f"{self.network} has no preset {self.preset!r}; accepted are {', '.join(presets)}")
        check_options(self.options, presets[self.preset](), self.network)
        return self


class ClassifierTraining(LoopConfig):
    batch_size: Count = 16
    snippets: Count = 256
    cache_mib: Annotated[int, Field(ge=0)] = 1024


class ClassifierPlan(DataPlan):
    classifier: ClassifierPart
    training: ClassifierTraining
    protocol: Text = "activitynet"

    @model_validator(mode="after")
    def _protocol_is_known(self) -> ClassifierPlan:
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"protocol {self.protocol!r} is not known; accepted are {', '.join(PROTOCOLS)}")
        return self


@dataclass(frozen=True)
class Finished:
    labels: tuple[str, ...]
    document: Mapping[str, Any]

    def table(self) -> str:
        figures = self.document["validation"]
        return "\n".join(f"{name} {100 * value:.2f}" for name, value in figures.items()) or "not validated"


def asks_for_classifier(path: Path) -> bool:
    """Whether a plan names a classifier where others name a detector; what cannot be read is for others to refuse."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and "classifier" in document


def read(path: Path, changes: Mapping[str, Any] | None = None) -> ClassifierPlan:
    """`changes` replace keys of `training`, for one run."""
    return read_as(ClassifierPlan, path, changes)


def run(
    plan: ClassifierPlan,
    root: Path,
    folder: Path,
    device: str = "auto",
    on_step: Callable[[Step], None] = lambda _: None,
    on_validation: Callable[[int, Mapping[str, float]], None] = lambda *_: None,
    *,
    fresh: bool = False,
) -> Finished:
    """Trains, or goes on training. Paths in the plan are looked up from `root`."""
    where = torch.device(choose_device(device))
    found = data_of(plan, root)
    train = found.splits[plan.dataset.train]
    labels = trained_labels(train.ground_truth, PROTOCOLS[plan.protocol])
    torch.manual_seed(plan.training.seed)
    network = _network(plan.classifier, found.channels, len(labels))
    validation: Split | None = found.splits[plan.dataset.validation] if plan.dataset.validation else None
    training = plan.training
    rules = ClassifierRules(training.batch_size, training.snippets, training.cache_mib, training.seed)
    job = ClassifierJob(network, labels, train, validation, rules)
    with sole_writer(folder, "training"):
        if fresh:
            start_afresh(folder)
        claim(folder, plan.model_dump(mode="json"), found.digests)
        write_json(folder / LABELS, list(labels))
        done = loop.fit(job, plan.training, folder, where, on_step, on_validation)
        document = {
            "name": plan.name,
            "labels": list(labels),
            "validation": dict(done.validation),
            "best_validation": done.best,
            "steps": done.steps,
            "seconds": round(done.seconds, 3),
            "device": where.type,
            "plan": plan.model_dump(mode="json"),
        }
        write_json(folder / RESULT, document)
        network.load_state_dict(checkpoints.read(done.weights)[0])
        write_json(folder / VIDEO_SCORES, _video_scores(job, network, labels, found.splits))
    return Finished(labels, document)


def _video_scores(
    job: ClassifierJob, network: VideoClassifier, labels: tuple[str, ...], splits: Mapping[str, Split]
) -> dict[str, Any]:
    """Of every video, in the form `cuhk` of a plan's `video_scores`."""
    network.eval()
    videos = {video: split for split in splits.values() for video in split.ground_truth.videos}
    results = {video: job.scores_of(network, split, video).tolist() for video, split in videos.items()}
    return {"class": list(labels), "results": results}


def _network(wanted: ClassifierPart, channels: int, num_classes: int) -> VideoClassifier:
    entry = CLASSIFIERS[wanted.network]
    known = {"input_channels": channels, "num_classes": num_classes}
    config = configured(entry.presets[wanted.preset](), wanted.options, known, wanted.network)
    wrong = [
        f"{name} is {getattr(config, name)}; the data has {value}"
        for name, value in known.items()
        if getattr(config, name) != value
    ]
    if wrong:
        raise InvalidOptions(f"{wanted.network}: {'; '.join(wrong)}")
    try:
        return entry.network(config)
    except ValueError as error:
        raise InvalidOptions(f"{wanted.network}: {error}") from None
