"""Frames of annotated videos in; batches of clips and the loss that teaches a backbone to name their actions out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.backbones.backbone import Backbone
from models.detectors.detector import Losses
from service.pipeline.flow import FlowRule, FlowStation
from training.clip_frames import FLOW_ALGORITHM, FrameStore, displacements
from training.evaluation.annotations import GroundTruth
from training.marionette import trimmed

COVERED = 0.5  # an action is in a clip that it fills so far, or that holds so much of it
Random = np.random.Generator


@dataclass(frozen=True)
class ClipRules:
    """`background`: share of clips drawn anywhere rather than inside an action. `brightness`: gain and offset are drawn
    within this share. `shift_px`: a picture is moved by up to so many pixels. `validation_clips` are judged.
    `trimmed`: share of freshly rendered clips of one figure, at the first step and at the last."""

    batch_size: int = 24
    steps_per_epoch: int = 100
    background: float = 0.35
    flip: bool = True
    brightness: float = 0.25
    shift_px: int = 8
    validation_clips: int = 600
    trimmed: tuple[float, float] = (0.0, 0.0)


class ClipBatch(NamedTuple):
    clips: Tensor
    wanted: Tensor  # (N, K): 1 for each action that is in the clip


class Clips:
    """Videos of one subset: frames, rate, and where actions are, in frames."""

    def __init__(self, truth: GroundTruth, store: FrameStore, fps: float, labels: tuple[str, ...]) -> None:
        self.store, self.fps, self.names, self.num_classes = store, fps, labels, len(labels)
        order = np.array([labels.index(label) for label in truth.labels], np.int64)
        self.labels = order[truth.label_indices] if len(truth.label_indices) else truth.label_indices
        starts_s = np.array([store.start_s(name) for name in truth.videos])[truth.video_indices]
        self.spans = (truth.segments_s - starts_s[:, None]) * fps
        self.videos = truth.videos
        self.video_of = truth.video_indices

    def wanted(self, video: int, first: int, length: int) -> NDArray[np.float32]:
        here = self.video_of == video
        spans, labels = self.spans[here], self.labels[here]
        shared = np.minimum(spans[:, 1], first + length) - np.maximum(spans[:, 0], first)
        inside = (shared >= COVERED * length) | (shared >= COVERED * (spans[:, 1] - spans[:, 0]))
        answer = np.zeros(self.num_classes, np.float32)
        answer[labels[inside & (shared > 0)]] = 1
        return answer


class ClipJob:
    """Trains every class against all others, since two figures may do two things at once."""

    def __init__(
        self,
        network: Backbone,
        train: Clips,
        validation: Clips | None,
        rules: ClipRules,
        seed: int,
        total_steps: int = 1,
    ) -> None:
        self.network, self.loss = network, nn.Module()
        self._total_steps = total_steps
        self._train, self._validation, self._rules, self._seed = train, validation, rules, seed
        self._length = network.clip_format.clip_frames
        self._clip_px = network.clip_format.scale.clip_px

    @property
    def steps_per_epoch(self) -> int:
        return self._rules.steps_per_epoch

    def batch(self, step: int) -> ClipBatch:
        numbers = np.random.default_rng([self._seed, step])
        first, last = self._rules.trimmed
        share = first + (last - first) * step / self._total_steps
        size = self._rules.batch_size
        drawn = [
            self._render(numbers, step * size + place) if numbers.random() < share else self._draw(numbers)
            for place in range(size)
        ]
        return _batch(drawn)

    def losses(self, network: nn.Module, batch: ClipBatch) -> Losses:
        device = next(network.parameters()).device
        scores = network(batch.clips.to(device)).scores.float()
        loss = F.binary_cross_entropy_with_logits(scores, batch.wanted.to(device), reduction="sum") / len(scores)
        return Losses(loss, {"classification": loss})

    @torch.no_grad()
    def validate(self, network: nn.Module) -> Mapping[str, float]:
        """The mean over classes of the average precision on clips of the validation videos."""
        if self._validation is None:
            return {}
        numbers = np.random.default_rng(self._seed + 1)
        scores, wanted = [], []
        device = next(network.parameters()).device
        for _ in range(0, self._rules.validation_clips, 32):
            batch = _batch([self._anywhere(self._validation, numbers) for _ in range(32)])
            scores.append(network(batch.clips.to(device)).scores.float().cpu())
            wanted.append(batch.wanted)
        precisions = [
            average_precision(score, truth)
            for score, truth in zip(torch.cat(scores).T.numpy(), torch.cat(wanted).T.numpy(), strict=True)
            if truth.any()
        ]
        return {"average": float(np.mean(precisions))} if precisions else {}

    def _draw(self, numbers: Random) -> tuple[NDArray[np.generic], NDArray[np.float32]]:
        clips = self._train
        if numbers.random() < self._rules.background or not len(clips.labels):
            clip, wanted = self._anywhere(clips, numbers)
        else:
            of_label = np.flatnonzero(clips.labels == numbers.choice(np.unique(clips.labels)))
            which = int(numbers.choice(of_label))
            middle = numbers.uniform(*clips.spans[which])
            clip, wanted = self._cut(clips, int(clips.video_of[which]), round(middle - self._length / 2))
        return self._vary(clip, numbers), wanted

    def _render(self, numbers: Random, number: int) -> tuple[NDArray[np.generic], NDArray[np.float32]]:
        """A clip that Marionette makes on the spot."""
        length, size_px = self._length, self.network.clip_format.size_px
        is_flow = self._clip_px is not None
        pictures, label = trimmed.clip(self._seed, number, length + is_flow, self._train.fps, size_px)
        wanted = np.zeros(self._train.num_classes, np.float32)
        if label is not None:
            wanted[self._train.names.index(label)] = 1
        if self._clip_px is None:
            return self._vary(pictures, numbers), wanted
        station = FlowStation(FlowRule(FLOW_ALGORITHM, self._clip_px, quantised=True))
        return self._vary(station.push(pictures), numbers), wanted

    def _anywhere(self, clips: Clips, numbers: Random) -> tuple[NDArray[np.generic], NDArray[np.float32]]:
        video = int(numbers.integers(len(clips.videos)))
        frames = clips.store.frames(clips.videos[video])
        return self._cut(clips, video, int(numbers.integers(max(1, len(frames) - self._length))))

    def _cut(self, clips: Clips, video: int, first: int) -> tuple[NDArray[np.generic], NDArray[np.float32]]:
        frames = clips.store.frames(clips.videos[video])
        first = min(max(0, first), max(0, len(frames) - self._length))
        rows = np.minimum(np.arange(first, first + self._length), len(frames) - 1)
        clip = np.asarray(frames[rows[0] : rows[-1] + 1])[rows - rows[0]]
        if self._clip_px is not None:
            return displacements(clip, self._clip_px), clips.wanted(video, first, self._length)
        return clip, clips.wanted(video, first, self._length)

    def _vary(self, clip: NDArray[np.generic], numbers: Random) -> NDArray[np.generic]:
        rules = self._rules
        if rules.flip and numbers.random() < 0.5:
            clip = clip[:, :, ::-1]
            if self._clip_px is not None:
                clip = clip * np.array([-1, 1], np.float32)  # what moved left moves right
        if rules.shift_px:
            right, down = numbers.integers(-rules.shift_px, rules.shift_px + 1, 2)
            clip = np.roll(clip, (int(down), int(right)), axis=(1, 2))
        if self._clip_px is None and rules.brightness:
            gain = 1 + numbers.uniform(-rules.brightness, rules.brightness)
            offset = 255 * numbers.uniform(-rules.brightness, rules.brightness) / 2
            table = np.clip(np.arange(256) * gain + offset, 0, 255).astype(np.uint8)
            clip = table[clip.astype(np.uint8)]
        return clip


def _batch(drawn: list[tuple[NDArray[np.generic], NDArray[np.float32]]]) -> ClipBatch:
    clips = torch.from_numpy(np.ascontiguousarray(np.stack([clip for clip, _ in drawn])))
    return ClipBatch(clips, torch.from_numpy(np.stack([wanted for _, wanted in drawn])))


def average_precision(scores: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    """Of scores (N,) that rank what is wanted (N,), 0 or 1; at least one is."""
    order = np.argsort(-scores, kind="stable")
    hits = wanted[order]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float((precision * hits).sum() / hits.sum())
