"""A plan in JSON in; a backbone trained on clips of annotated videos, its curve, and a recipe that exports it, out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from models.backbones.backbone import Backbone
from models.bundle import explain
from models.catalog import BACKBONES
from models.manifest import NAME
from models.schema import Count, Fraction, Part
from service.errors import InvalidOptions
from training import loop
from training.clip_frames import FLOW_ALGORITHM, INTERPOLATION, FrameForm, FrameStore, video_files
from training.clip_job import ClipJob, ClipRules, Clips
from training.datasets import catalog as datasets
from training.evaluation.annotations import GroundTruth
from training.loop import LoopConfig, Share, Step
from training.marionette.motions import LABELS as MARIONETTE
from training.plan import read_as
from training.run import choose_device, start_afresh
from training.run_folder import claim, sole_writer, truth_digest, write_json

Text = Annotated[str, Field(min_length=1)]
RECIPE = "recipe.json"


class BackbonePlan(Part):
    network: Text
    preset: Text
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_in_the_catalogue(self) -> BackbonePlan:
        if self.network not in BACKBONES:
            raise ValueError(f"network {self.network!r} is not known; accepted are {', '.join(BACKBONES)}")
        presets = BACKBONES[self.network].presets
        if self.preset not in presets:
            raise ValueError(f"{self.network} has no preset {self.preset!r}; accepted are {', '.join(presets)}")
        unknown = sorted(set(self.options) - {field.name for field in fields(presets[self.preset]())})
        if unknown:
            raise ValueError(f"{self.network} has no option {', '.join(unknown)}")
        return self


class ClipTraining(LoopConfig):
    ema: Share | None = 0.99
    batch_size: Count = 24
    steps_per_epoch: Count = 100
    background: Fraction = 0.35
    flip: bool = True
    brightness: Fraction = 0.25
    shift_px: Annotated[int, Field(ge=0, le=64)] = 8
    validation_clips: Count = 600
    trimmed: tuple[Fraction, Fraction] = (0.0, 0.0)

    @property
    def rules(self) -> ClipRules:
        return ClipRules(**{field.name: getattr(self, field.name) for field in fields(ClipRules)})


class ClipPlan(Part):
    """`truth` in ActivityNet's form, `videos` a folder; `frames` is where decoded frames are kept between runs.
    `stride_frames`: how far apart the snippets stand that are to be extracted with it."""

    name: Annotated[str, Field(pattern=NAME)]
    truth: Text
    videos: Text
    frames: Text
    train: Text = "training"
    validation: Text | None = "validation"
    fps: Annotated[float, Field(gt=0, le=240)]
    stride_frames: Count = 4
    backbone: BackbonePlan
    training: ClipTraining


@dataclass(frozen=True)
class Finished:
    labels: tuple[str, ...]
    document: Mapping[str, Any]


def read(path: Path, changes: Mapping[str, Any] | None = None) -> ClipPlan:
    """`changes` replace keys of `training`, for one run."""
    return read_as(ClipPlan, path, changes)


def run(
    plan: ClipPlan,
    root: Path,
    folder: Path,
    device: str = "auto",
    on_step: Callable[[Step], None] = lambda _: None,
    on_validation: Callable[[int, Mapping[str, float]], None] = lambda *_: None,
    *,
    fresh: bool = False,
) -> Finished:
    """Trains, or goes on training, `fresh` from the beginning. Paths in the plan are looked up from `root`."""
    where = torch.device(choose_device(device))
    truth = _truth(plan, root, plan.train)
    labels = tuple(truth.labels)
    torch.manual_seed(plan.training.seed)
    network = _network(plan.backbone, len(labels))
    train = _clips(plan, root, truth, network, labels)
    validation = None
    if plan.validation is not None:
        validation = _clips(plan, root, _truth(plan, root, plan.validation), network, labels)
    if any(plan.training.trimmed) and not set(MARIONETTE) <= set(labels):
        raise InvalidOptions(f"trimmed clips show {', '.join(MARIONETTE)}; the annotations have {', '.join(labels)}")
    steps = plan.training.all_epochs * plan.training.steps_per_epoch
    job = ClipJob(network, train, validation, plan.training.rules, plan.training.seed, steps)
    with sole_writer(folder, "training"):
        if fresh:
            start_afresh(folder)
        claim(folder, plan.model_dump(mode="json"), {"annotations": truth_digest(truth)})
        done = loop.fit(job, plan.training, folder, where, on_step, on_validation)
    document = {
        "name": plan.name,
        "labels": list(labels),
        "steps": done.steps,
        "seconds": round(done.seconds, 1),
        "validation": dict(done.validation),
        "plan": plan.model_dump(mode="json"),
    }
    write_json(folder / "result.json", document)
    write_json(folder / RECIPE, recipe(plan, network, labels))
    return Finished(labels, document)


def recipe(plan: ClipPlan, network: Backbone, labels: tuple[str, ...]) -> dict[str, Any]:
    """What `tal export` needs to serve the backbone on the very pixels that it was trained on.

    Only a bundle with a detector gives features, so an untrained one stands in.
    """
    clips = network.clip_format
    options = {**plan.backbone.options, "num_classes": len(labels)}
    stream = {
        "name": clips.kind,
        "network": plan.backbone.network,
        "preset": plan.backbone.preset,
        "options": options,
        "weights": loop.WEIGHTS,
        "resize": {"mode": "exact", "size_px": [clips.size_px, clips.size_px], "interpolation": INTERPOLATION},
    }
    if clips.scale.clip_px is not None:
        stream["flow"] = {"algorithm": FLOW_ALGORITHM, "clip_px": clips.scale.clip_px, "quantised": True}
    return {
        "name": plan.name,
        "licence": "unknown",
        "provenance": f"{plan.backbone.network} trained by tal pretrain; the detector is untrained",
        "labels": list(labels),
        "streams": [stream],
        "grid": {"fps": plan.fps, "stride_frames": plan.stride_frames},
        "detector": {"network": "actionformer", "preset": "compact"},
    }


def _truth(plan: ClipPlan, root: Path, subset: str) -> GroundTruth:
    """Labels in the order that the file states, as `tal train` reads them."""
    return datasets.read("json", root / plan.truth, subset).ground_truth


def _network(wanted: BackbonePlan, num_classes: int) -> Backbone:
    entry = BACKBONES[wanted.network]
    preset = entry.presets[wanted.preset]()
    text = json.dumps({**asdict(preset), **wanted.options, "num_classes": num_classes})
    try:
        return entry.network(TypeAdapter(type(preset)).validate_json(text, strict=True))
    except ValidationError as error:
        raise InvalidOptions(f"{wanted.network}: {explain(error, 'options')}") from None


def _clips(plan: ClipPlan, root: Path, truth: GroundTruth, network: Backbone, labels: tuple[str, ...]) -> Clips:
    form = FrameForm(plan.fps, network.clip_format.size_px, network.clip_format.scale.clip_px)
    store = FrameStore(video_files(root / plan.videos, truth.videos), root / plan.frames, form)
    store.prepare(workers=2)
    return Clips(truth, store, plan.fps, labels)
