"""A training plan in JSON in, one frozen `Plan` out: what to train on what, and how; all that is wrong with it at once.

`docs/training.md` explains every key. A plan that names a preset of `training/presets/` takes from it what it leaves
out itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from models.bundle import explain
from models.catalog import DETECTORS, DetectorEntry
from models.manifest import NAME
from models.postprocessing import Fusion
from models.schema import Count, Fraction, Part, Positive
from service.errors import InvalidOptions
from training import presets
from training.datasets.catalog import READERS
from training.evaluation import video_scores
from training.evaluation.protocols import PROTOCOLS
from training.feature_files import FeatureRule
from training.loop import LoopConfig
from training.static_parts import StaticRule

Kind = TypeVar("Kind", bound=Part)
Text = Annotated[str, Field(min_length=1)]
RULE_KEYS = ("stride_frames", "offset_frames", "clip_frames", "fps", "layout", "array")
Tiou = Annotated[float, Field(gt=0, le=1)]


class DatasetPlan(Part):
    """`path` is the file or folder of annotations in the `format` of a reader of `training/datasets`; `task` is for
    EPIC-Kitchens alone. `test`, on which the run is judged, defaults to the validation subset."""

    format: Text = "json"
    path: Text
    task: Literal["verb", "noun", "action"] = "verb"
    train: Text
    validation: Text | None = None
    test: Text | None = None

    @model_validator(mode="after")
    def _format_has_a_reader(self) -> DatasetPlan:
        if self.format not in READERS:
            raise ValueError(f"format {self.format!r} is not known; accepted are {', '.join(READERS)}")
        return self

    @model_validator(mode="after")
    def _is_judged_on_something(self) -> DatasetPlan:
        if self.validation is None and self.test is None:
            raise ValueError(
                "validation and test are both null: nothing is left to judge the run on; name a subset as test "
                f"(that of training, {self.train!r}, if figures on it are wanted)"
            )
        return self

    @property
    def judged_on(self) -> str:
        return self.test or self.validation or self.train


class FeaturePlan(Part):
    """`folder` holds a feature file per video (or is the one file of all). Features of `tal extract` say themselves
    how they were made; those of others need stride_frames, offset_frames and clip_frames; fps None is the video's.
    `rule_of` "preset": these came with the preset, and stand aside for features that say it themselves. `step_frames`:
    the detector sees rows so far apart, a multiple of their stride; one that learns from whole videos begins at any
    of the first ones."""

    folder: Text
    stride_frames: Positive | None = None
    offset_frames: float | None = None
    clip_frames: Count | None = None
    fps: Positive | None = None
    layout: Literal["tc", "ct"] = "tc"
    array: str | None = None
    step_frames: Positive | None = None
    rule_of: Literal["preset"] | None = None

    @model_validator(mode="after")
    def _a_rule_is_whole(self) -> FeaturePlan:
        given = [self.stride_frames, self.offset_frames, self.clip_frames]
        if any(value is None for value in given) and any(value is not None for value in [*given, self.fps]):
            raise ValueError("stride_frames, offset_frames and clip_frames go together, for features made elsewhere")
        return self

    @property
    def own_rule(self) -> tuple[str, ...]:
        """The keys by which whoever wrote the plan says how features were made."""
        default = FeaturePlan(folder=self.folder)
        keys = RULE_KEYS if self.rule_of is None else ()
        return tuple(key for key in keys if getattr(self, key) != getattr(default, key))

    @property
    def rule(self) -> FeatureRule | None:
        if self.stride_frames is None or self.offset_frames is None or self.clip_frames is None:
            return None
        return FeatureRule(
            self.stride_frames, self.offset_frames, self.clip_frames, self.fps, None, self.layout, self.array
        )


class DetectorPlan(Part):
    """`rules` names the preset whose windowing and post-processing judge it; by default its own. `postprocessing`
    replaces keys of that."""

    network: Text
    preset: Text
    options: dict[str, Any] = Field(default_factory=dict)
    rules: Text | None = None
    postprocessing: dict[str, Any] | None = None

    @property
    def entry(self) -> DetectorEntry:
        return DETECTORS[self.network]

    @model_validator(mode="after")
    def _is_in_the_catalogue(self) -> DetectorPlan:
        if self.network not in DETECTORS:
            raise ValueError(f"network {self.network!r} is not known; accepted are {', '.join(DETECTORS)}")
        if self.preset not in self.entry.presets:
            accepted = ", ".join(self.entry.presets)
            raise ValueError(f"{self.network} has no preset {self.preset!r}; accepted are {accepted}")
        if (self.rules or self.preset) not in self.entry.rules:
            raise ValueError(f"{self.network} has no rules {self.rules!r}; accepted are {', '.join(self.entry.rules)}")
        check_options(self.options, self.entry.presets[self.preset](), self.network)
        return self


class LossPlan(Part):
    """`preset` defaults to the detector's."""

    preset: Text | None = None
    options: dict[str, Any] = Field(default_factory=dict)


class StaticPlan(StaticRule):
    """Where hardly anything moves, nothing is done: hard negatives for detectors that learn from whole videos.

    `folder` holds how much moves in every frame, as `tal motion` tells it. `use`: what is static teaches the background
    ("training"), or its activations are 0 where the run is judged ("judging").
    """

    folder: Text
    use: Literal["training", "judging"] = "training"


class TrainingPlan(LoopConfig):
    """`trunc_thresh`: the share of an action that a cut must leave, or nothing is asked of it. `crop`: of a video
    shorter than a sample, a random share within these bounds is taken; None takes all of it. `windows_per_video`: so
    many samples of each video make an epoch. `cache_mib` of features are kept in memory. `epoch_steps`, for detectors
    that learn from whole videos: so many steps make an epoch; by default a pass over all videos and labels."""

    batch_size: Count = 2
    trunc_thresh: Fraction = 0.5
    crop: tuple[Fraction, Fraction] | None = (0.9, 1.0)
    windows_per_video: Count = 1
    cache_mib: Annotated[int, Field(ge=0)] = 1024
    epoch_steps: Count | None = None

    @model_validator(mode="after")
    def _crop_rises(self) -> TrainingPlan:
        if self.crop is not None and not 0 < self.crop[0] <= self.crop[1]:
            raise ValueError(f"crop is {list(self.crop)}; two rising shares above 0 are needed")
        return self


class VideoScoresPlan(Part):
    """Class scores of whole videos, by which a detector of any action is judged on actions of each class: the file at
    `path` in one of the forms of `training/evaluation/video_scores.py`, joined as `fusion` says."""

    format: Text
    path: Text
    fusion: Fusion = Fusion()

    @model_validator(mode="after")
    def _format_has_a_reader(self) -> VideoScoresPlan:
        if self.format not in video_scores.READERS:
            accepted = ", ".join(video_scores.READERS)
            raise ValueError(f"format {self.format!r} is not known; accepted are {accepted}")
        return self


class DataPlan(Part):
    """What every plan says of what it trains on."""

    name: Annotated[str, Field(pattern=NAME)]
    dataset: DatasetPlan
    features: FeaturePlan


class Plan(DataPlan):
    detector: DetectorPlan
    loss: LossPlan = LossPlan()
    static: StaticPlan | None = None
    training: TrainingPlan
    protocol: Text = "activitynet"
    tious: Annotated[tuple[Tiou, ...], Field(min_length=1)] | None = None
    video_scores: VideoScoresPlan | None = None

    @model_validator(mode="after")
    def _parts_are_known(self) -> Plan:
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"protocol {self.protocol!r} is not known; accepted are {', '.join(PROTOCOLS)}")
        losses = self.detector.entry.losses
        if self.loss_preset not in losses:
            raise ValueError(
                f"{self.detector.network} has no loss {self.loss_preset!r}; accepted are {', '.join(losses)}"
            )
        check_options(self.loss.options, losses[self.loss_preset](), "loss")
        return self

    @model_validator(mode="after")
    def _keys_are_for_this_supervision(self) -> Plan:
        if self.detector.entry.supervision == "videos":
            return self
        given = [
            name
            for name, value in (("static", self.static), ("training.epoch_steps", self.training.epoch_steps))
            if value is not None
        ]
        if given:
            raise ValueError(
                f"{', '.join(given)}: for detectors that learn from whole videos; {self.detector.network} learns from "
                "the times of actions"
            )
        return self

    @property
    def loss_preset(self) -> str:
        return self.loss.preset or self.detector.preset


def read(path: Path, changes: Mapping[str, Any] | None = None) -> Plan:
    """`changes` replace keys of `training`, for one run."""
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise InvalidOptions(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise InvalidOptions(f"{path}: not JSON: {error}") from None
    found = parse(document, changes, str(path))
    _check_files(found, path.parent, str(path))
    return found


def parse(document: Any, changes: Mapping[str, Any] | None = None, origin: str = "plan") -> Plan:
    if not isinstance(document, dict):
        raise InvalidOptions(f"{origin}: a plan is a JSON object, not {type(document).__name__}")
    if "preset" in document:
        document = _over_preset(document, origin)
    if changes:
        document = merged(document, {"training": dict(changes)})
    try:
        return Plan.model_validate_json(json.dumps(document))
    except ValidationError as error:
        raise InvalidOptions(f"{origin}: {explain(error, 'plan')}") from None


def configured(preset: Any, options: Mapping[str, Any], known: Mapping[str, Any], what: str) -> Any:
    """A configuration with options, and what follows from the data, in place of the preset's own."""
    text = json.dumps({**asdict(preset), **known, **options})
    try:
        return TypeAdapter(type(preset)).validate_json(text, strict=True)
    except ValidationError as error:
        raise InvalidOptions(f"{what}: {explain(error, 'options')}") from None


def read_as(kind: type[Kind], path: Path, changes: Mapping[str, Any] | None = None) -> Kind:
    """A plan of another kind, which knows no presets. `changes` replace keys of `training`, for one run."""
    try:
        document = json.loads(path.read_bytes())
        if isinstance(document, dict) and isinstance(document.get("training"), dict):
            document["training"] |= dict(changes or {})
        return kind.model_validate_json(json.dumps(document))
    except OSError as error:
        raise InvalidOptions(f"{path}: {error.strerror or error}") from None
    except ValidationError as error:
        raise InvalidOptions(f"{path}: {explain(error, 'plan')}") from None
    except ValueError as error:
        raise InvalidOptions(f"{path}: not JSON: {error}") from None


def _over_preset(document: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """What the plan says before what its preset says, and whose word it is how features were made."""
    own = {key: value for key, value in document.items() if key != "preset"}
    preset = _preset(document["preset"], origin)
    features = own.get("features")
    if preset["features"] and isinstance(features, Mapping) and all(features.get(key) is None for key in RULE_KEYS):
        preset["features"]["rule_of"] = "preset"
    return merged(preset, own)


def _preset(name: Any, origin: str) -> dict[str, Any]:
    if name not in presets.PRESETS:
        raise InvalidOptions(f"{origin}: preset {name!r} is not known; accepted are {', '.join(presets.PRESETS)}")
    return presets.PRESETS[name]()


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested keys of `over` before those of `under`."""
    both = {
        key: merged(under[key], over[key])
        for key in under.keys() & over.keys()
        if isinstance(under[key], Mapping) and isinstance(over[key], Mapping)
    }
    return {**under, **over, **both}


def check_options(options: Mapping[str, Any], preset: Any, what: str) -> None:
    """Names and types; how they agree is seen when the network is built."""
    accepted = [field.name for field in fields(preset)]
    unknown = sorted(set(options) - set(accepted))
    if unknown:
        raise ValueError(f"{what} has no option {', '.join(unknown)}; accepted are {', '.join(accepted)}")
    try:
        configured(preset, options, {}, what)
    except InvalidOptions as error:
        raise ValueError(str(error)) from None


def _check_files(found: Plan, folder: Path, origin: str) -> None:
    named = {"dataset.path": found.dataset.path, "features.folder": found.features.folder}
    named |= {} if found.static is None else {"static.folder": found.static.folder}
    missing = [
        f"{key}: {folder / value} does not exist" for key, value in named.items() if not (folder / value).exists()
    ]
    if missing:
        raise InvalidOptions(f"{origin}: {'; '.join(missing)}")
