"""Feature sequences and labels of whole videos in; batches and the loss that teach a classifier to name videos out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.classifiers.video_classifier import VideoClassifier
from models.detectors.detector import Losses
from service.errors import InvalidOptions
from service.runtime.session import to_numpy
from training.clip_job import average_precision
from training.detector_job import MIB, Split, for_labels


class VideoBatch(NamedTuple):
    """Features (B, C, T), mask (B, T), and 1 for each action that is in the video (B, K)."""

    features: Tensor
    mask: Tensor
    wanted: Tensor


@dataclass(frozen=True)
class ClassifierRules:
    """`snippets`: so many of a longer video are drawn, in order, for a step. `cache_mib` of features stay in memory."""

    batch_size: int = 16
    snippets: int = 256
    cache_mib: int = 1024
    seed: int = 0


class ClassifierJob:
    """An epoch is a pass over all videos that hold an action, in random order."""

    def __init__(
        self,
        network: VideoClassifier,
        labels: tuple[str, ...],
        train: Split,
        validation: Split | None,
        rules: ClassifierRules,
    ) -> None:
        self.network, self.loss = network, nn.Module()
        self._train, self._validation, self._rules, self._labels = train, validation, rules, labels
        self._wanted = labels_of(train, labels)
        self._videos = np.flatnonzero(self._wanted.any(axis=1))
        if not len(self._videos):
            raise InvalidOptions("no video of the training subset has an action; training needs some")
        self._cached: dict[int, NDArray[np.float32]] = {}
        self._room_bytes = rules.cache_mib * MIB

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self._videos) // self._batch_size)

    @property
    def _batch_size(self) -> int:
        return min(self._rules.batch_size, len(self._videos))

    def batch(self, step: int) -> VideoBatch:
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self._rules.seed, 0, epoch]).permutation(self._videos)
        chosen = order[place * self._batch_size : (place + 1) * self._batch_size]
        rows = [
            _drawn(
                self._values(int(video)), self._rules.snippets, np.random.default_rng([self._rules.seed, 1, step, at])
            )
            for at, video in enumerate(chosen)
        ]
        longest = max(len(part) for part in rows)
        features = np.zeros((len(rows), rows[0].shape[1], longest), np.float32)
        for at, part in enumerate(rows):
            features[at, :, : len(part)] = part.T
        mask = np.arange(longest) < np.array([len(part) for part in rows])[:, None]
        return VideoBatch(torch.from_numpy(features), torch.from_numpy(mask), torch.from_numpy(self._wanted[chosen]))

    def losses(self, network: nn.Module, batch: VideoBatch) -> Losses:
        device = next(network.parameters()).device
        found = network(batch.features.to(device), batch.mask.to(device)).float()
        loss = classification_loss(found, batch.wanted.to(device), self.network.config.scores == "sigmoid")
        return Losses(loss, {"classification": loss})

    @torch.no_grad()
    def validate(self, network: nn.Module) -> Mapping[str, float]:
        """The mean over classes of the average precision with which videos are ranked by them."""
        if self._validation is None:
            return {}
        truth = labels_of(self._validation, self._labels)
        scores = np.stack([self.scores_of(network, self._validation, v) for v in self._validation.ground_truth.videos])
        found = [average_precision(score, told) for score, told in zip(scores.T, truth.T, strict=True) if told.any()]
        return {"average": float(np.mean(found))} if found else {}

    @torch.no_grad()
    def scores_of(self, network: nn.Module, split: Split, video: str) -> NDArray[np.float32]:
        """How likely a video holds each action: (K,)."""
        values = torch.from_numpy(_rows(split, video).T[None].copy())
        mask = torch.ones(1, values.shape[2], dtype=torch.bool)
        device = next(network.parameters()).device
        outputs = network(values.to(device), mask.to(device))
        return np.asarray(self.network.decode(outputs, mask.to(device))[0].float().cpu().numpy(), np.float32)

    def _values(self, video: int) -> NDArray[np.float32]:
        known = self._cached.get(video)
        if known is not None:
            return known
        found = _rows(self._train, self._train.ground_truth.videos[video])
        if found.nbytes <= self._room_bytes:
            self._room_bytes -= found.nbytes
            self._cached[video] = found
        return found


def labels_of(split: Split, labels: tuple[str, ...]) -> NDArray[np.float32]:
    """1 for each of the labels that a video holds: (videos, labels)."""
    truth = for_labels(split.ground_truth, labels)
    found = np.zeros((len(truth.videos), len(labels)), np.float32)
    found[truth.video_indices, truth.label_indices] = 1
    return found


def classification_loss(outputs: Tensor, wanted: Tensor, independent: bool) -> Tensor:
    """Of classes that exclude each other: cross-entropy against labels that share 1 between them (as UntrimmedNet);
    else every class against all others."""
    if independent:
        return F.binary_cross_entropy_with_logits(outputs, wanted)
    shares = wanted / wanted.sum(dim=1, keepdim=True).clamp(min=1)
    return -(shares * outputs).sum(dim=1).mean()


def _rows(split: Split, video: str) -> NDArray[np.float32]:
    """(T, C)"""
    values = split.load(video).values
    if values is None:
        raise InvalidOptions(f"{video}: holds class scores and no features; a classifier sees features")
    return np.asarray(to_numpy(values), np.float32)


def _drawn(rows: NDArray[np.float32], most: int, draws: np.random.Generator) -> NDArray[np.float32]:
    if len(rows) <= most:
        return rows
    return rows[np.sort(draws.choice(len(rows), most, replace=False))]
