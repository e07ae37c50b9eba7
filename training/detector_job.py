"""A detector of the catalogue, feature sequences and annotations in; the job that the loop trains out.

Validation is what serving does: the same windows, the same rules, then the data set's protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.catalog import DetectorEntry
from models.detectors.detector import Detector, Losses, Targets
from models.manifest import Windowing
from models.postprocessing import Fusion
from service.errors import InvalidOptions
from service.pipeline.features import FeatureSequence
from service.runtime.loaded_model import LoadedModel
from training import eager, samples
from training.evaluation import video_scores
from training.evaluation.annotations import Allowance, GroundTruth, Ints, parse_predictions, without_duplicates
from training.evaluation.average_precision import split_ignored
from training.evaluation.protocols import Protocol, Result, evaluate
from training.evaluation.video_scores import VideoScores
from training.plan import Plan, configured
from training.samples import Sample, Sampling, Steps

MIB = 1024 * 1024
ANY_CLASS = "action"
# Predictions are cut to their video when they are made; a start before 0 can only come of a late first frame.
LENIENT = Allowance(overrun_s=float("inf"), empty=True)


@dataclass(frozen=True)
class Split:
    """Annotated videos and where their features come from, video by video, when they are needed.

    `load_dense` gives the rows between those that a detector sees, too, where some are passed over. `silent`: snippets
    whose activations are 0 where the run is judged.
    """

    ground_truth: GroundTruth
    load: Callable[[str], FeatureSequence]
    load_dense: Callable[[str], FeatureSequence] | None = None
    silent: Callable[[str, FeatureSequence], NDArray[np.bool_]] | None = None

    def load_all_rows(self, video: str) -> FeatureSequence:
        return (self.load_dense or self.load)(video)


class Batch(NamedTuple):
    """Features (B, C, T), mask (B, T), and the actions of each sample."""

    features: Tensor
    mask: Tensor
    targets: tuple[Targets, ...]


@dataclass(frozen=True)
class VideoNames:
    """What names the actions of a detector that finds them of any class, where it is judged."""

    scores: VideoScores
    fusion: Fusion


@dataclass(frozen=True)
class Subject:
    """What is trained: a network with its loss, the labels in the order of its classes, and the rules that judge it."""

    entry: DetectorEntry
    network: Detector
    loss: nn.Module
    labels: tuple[str, ...]
    rules: str
    names: VideoNames | None = None
    postprocessing: Mapping[str, Any] | None = None

    def loaded(self, network: nn.Module) -> LoadedModel:
        return eager.load(cast("Detector", network), self.entry, self.rules, self.labels, self.postprocessing)

    @property
    def judged_labels(self) -> tuple[str, ...]:
        return self.labels if self.names is None else self.names.scores.labels

    def predict(self, network: nn.Module, split: Split) -> dict[str, Any]:
        """Predictions for all videos of the split, under the names that the run is judged by."""
        found = predict(self.loaded(network), split)
        return found if self.names is None else video_scores.named(found, self.names.scores, self.names.fusion)


class JudgedJob:
    """What all jobs of detectors have in common: their loss, and how they are judged."""

    def __init__(self, subject: Subject, validation: Split | None, protocol: Protocol) -> None:
        self._subject, self._validation, self._protocol = subject, validation, protocol

    @property
    def network(self) -> nn.Module:
        return self._subject.network

    @property
    def loss(self) -> nn.Module:
        return self._subject.loss

    def losses(self, network: nn.Module, batch: Batch) -> Losses:
        device = next(network.parameters()).device
        features, mask = (part.to(device, non_blocking=True) for part in (batch.features, batch.mask))
        outputs = network(features, mask)
        targets = [
            Targets(target.spans.to(device), target.labels.to(device), target.weight) for target in batch.targets
        ]
        # Sums over thousands of points need more digits than half precision has.
        with torch.autocast(device.type, enabled=False):
            return cast("Losses", self._subject.loss(_in_float32(outputs), targets))

    def validate(self, network: nn.Module) -> Mapping[str, float]:
        if self._validation is None:
            return {}
        result = judge(
            self._subject.predict(network, self._validation),
            self._validation,
            self._subject.judged_labels,
            self._protocol,
        )
        means = zip(self._protocol.tious, result.precision.means, strict=True)
        return {"average": result.average, **{f"mAP@{tiou:g}": float(mean) for tiou, mean in means}}


class DetectorJob(JudgedJob):
    """An epoch is a pass over all videos in random order, `windows_per_video` samples of each; what full batches leave
    over sits this one out.
    """

    def __init__(
        self, subject: Subject, train: Split, validation: Split | None, plan: Plan, protocol: Protocol
    ) -> None:
        super().__init__(subject, validation, protocol)
        self._plan = plan
        self._train = replace(train, ground_truth=without_duplicates(for_labels(train.ground_truth, subject.labels)))
        videos = np.unique(self._train.ground_truth.video_indices)
        if not len(videos):
            raise InvalidOptions("no video of the training subset has an action; training needs some")
        self._visits = np.repeat(videos, plan.training.windows_per_video)
        lengths = subject.network.config.lengths
        self._windowing = windowing_of(subject)
        self._sampling = Sampling(
            samples.length_of(self._windowing, lengths.train_length), plan.training.trunc_thresh, plan.training.crop
        )
        self._cached: dict[int, Steps] = {}
        self._room_bytes = plan.training.cache_mib * MIB

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self._visits) // self._batch_size)

    @cached_property
    def _batch_size(self) -> int:
        return min(self._plan.training.batch_size, len(self._visits))

    def batch(self, step: int) -> Batch:
        """A function of the seed and the step alone."""
        epoch, place = divmod(step, self.steps_per_epoch)
        seed = self._plan.training.seed
        order = np.random.default_rng([seed, 0, epoch]).permutation(self._visits)
        chosen = order[place * self._batch_size : (place + 1) * self._batch_size]
        drawn = [
            self._sample(int(video), np.random.default_rng([seed, 1, step, at])) for at, video in enumerate(chosen)
        ]
        return Batch(
            torch.from_numpy(np.stack([sample.features for sample in drawn])),
            torch.from_numpy(np.stack([sample.mask for sample in drawn])),
            tuple(
                Targets(torch.from_numpy(sample.spans.astype(np.float32)), torch.from_numpy(sample.labels))
                for sample in drawn
            ),
        )

    def _sample(self, video: int, draws: np.random.Generator) -> Sample:
        return samples.draw(self._steps(video), self._sampling, draws)

    def _steps(self, video: int) -> Steps:
        known = self._cached.get(video)
        if known is not None:
            return known
        truth = self._train.ground_truth
        mine = truth.video_indices == video
        sequence = self._train.load(truth.videos[video])
        found = samples.steps_of(sequence, truth.segments_s[mine], truth.label_indices[mine], self._windowing)
        self._room_bytes -= found.features.nbytes
        if self._room_bytes >= 0:
            self._cached[video] = found
        else:
            self._room_bytes += found.features.nbytes
        return found


def subject_of(plan: Plan, labels: tuple[str, ...], channels: int) -> Subject:
    """The plan's detector for these labels and features, freshly initialised from the plan's seed."""
    entry, what = plan.detector.entry, plan.detector.network
    preset = entry.presets[plan.detector.preset]()
    known: dict[str, Any] = {}
    # A preset that finds actions of any class stays so; one with several kinds of feature knows their widths.
    if preset.num_classes > 1:
        known["num_classes"] = len(labels)
    if len(preset.input_channels) == 1:
        known["input_channels"] = (channels,)
    config = configured(preset, plan.detector.options, known, what)
    if sum(config.input_channels) != channels:
        raise InvalidOptions(
            f"{what} takes {sum(config.input_channels)} feature channels; the features have {channels}"
        )
    if config.num_classes not in (1, len(labels)):
        raise InvalidOptions(f"{what} tells {config.num_classes} classes apart; the annotations have {len(labels)}")
    loss_config = configured(entry.losses[plan.loss_preset](), plan.loss.options, {}, "loss")
    torch.manual_seed(plan.training.seed)
    try:
        network = entry.network(config)
        loss = entry.loss(loss_config, config)
    except ValueError as error:
        raise InvalidOptions(f"{what}: {error}") from None
    names = (ANY_CLASS,) if config.num_classes == 1 else labels
    rules = plan.detector.rules or plan.detector.preset
    return Subject(entry, network, loss, names, rules, postprocessing=plan.detector.postprocessing)


def windowing_of(subject: Subject) -> Windowing:
    windowing = subject.loaded(subject.network).manifest.windowing
    if windowing is None:
        raise InvalidOptions("the detector's catalogue entry gives no windowing; training needs one")
    return windowing


def trained_labels(ground_truth: GroundTruth, protocol: Protocol) -> tuple[str, ...]:
    """In the order of the network's classes."""
    return tuple(label for label in ground_truth.labels if label != protocol.ignored_label)


def for_labels(ground_truth: GroundTruth, labels: tuple[str, ...]) -> GroundTruth:
    """With label indices that count in `labels`, and without what is not among them; ANY_CLASS takes all in."""
    if labels == (ANY_CLASS,) and ANY_CLASS not in ground_truth.labels:
        return replace(ground_truth, labels=labels, label_indices=np.zeros_like(ground_truth.label_indices))
    place = {label: index for index, label in enumerate(labels)}
    places: Ints = np.array([place.get(label, -1) for label in ground_truth.labels], np.int64)
    found = places[ground_truth.label_indices]
    kept = found >= 0
    return replace(
        ground_truth,
        labels=labels,
        video_indices=ground_truth.video_indices[kept],
        segments_s=ground_truth.segments_s[kept],
        label_indices=found[kept],
    )


def predict(model: LoadedModel, split: Split) -> dict[str, Any]:
    """ActivityNet's form of predictions for all videos of the split."""
    return eager.predict(model, split.ground_truth.duration_s_of.items(), split.load, split.silent)


def judge(predictions: Mapping[str, Any], split: Split, labels: tuple[str, ...], protocol: Protocol) -> Result:
    """The protocol's figures; a detector that finds actions of any class is judged on finding them alone."""
    truth = split.ground_truth
    if labels == (ANY_CLASS,):
        truth, _ = split_ignored(truth, protocol.ignored_label)
        truth = for_labels(truth, labels)
    return evaluate(truth, parse_predictions(predictions, truth, LENIENT), protocol)


def _in_float32(outputs: Any) -> Any:
    """Nested tuples of tensors, the real numbers among them in single precision."""
    if isinstance(outputs, Tensor):
        return outputs.float() if outputs.is_floating_point() else outputs
    if isinstance(outputs, tuple):
        parts = [_in_float32(part) for part in outputs]
        return type(outputs)(*parts) if hasattr(outputs, "_fields") else tuple(parts)
    if isinstance(outputs, list):
        return [_in_float32(part) for part in outputs]
    return outputs
