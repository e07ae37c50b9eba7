"""A network and the graph exported from it in; how far apart they are out, or the refusal of a graph that is too far.

Two questions: do the tensors agree, over several batch sizes and lengths, with random and padded input; and do the same
segments come out in the end, with everything that serving does behind the graph?
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch

from exporters.exportable import Axis, Exportable
from models.postprocessing import Postprocessing
from service.errors import ExportFailed, InvalidOptions, first_line
from service.localization import DetectOptions, Segment
from service.pipeline import detection, features, segments
from service.pipeline.features import FeatureSequence
from service.pipeline.pipeline import Preset, localize
from service.pipeline.snippets import SnippetGrid
from service.runtime.loaded_model import LoadedModel
from service.runtime.session import Array, Session, Tensor, TensorSpec, to_numpy

TENSOR_TOLERANCE = 1e-4  # largest difference allowed, in units of the largest value of that output
SCORE_TOLERANCE = 1e-4
TIME_TOLERANCE_S = 2e-3
SNIPPETS = (1, 7, 50, 233)
MOST_CLIPS = 6  # they are costly, and without a detector every snippet needs one
MOST_FRAMES = 1_000_000  # of the video that random snippets pretend to come from
FPS = 25.0


class EagerSession:
    """The network itself behind the protocol of a graph, so that serving can run it unexported."""

    provider = "PyTorch"
    keeps_on_device = False

    def __init__(self, exportable: Exportable) -> None:
        self._exportable = exportable
        self.inputs: tuple[TensorSpec, ...] = tuple(port.spec for port in exportable.inputs)
        self.outputs: tuple[TensorSpec, ...] = tuple(port.spec for port in exportable.outputs)

    def run(
        self, feeds: Mapping[str, Tensor], *, keep: Collection[str] = (), want: Collection[str] = ()
    ) -> dict[str, Tensor]:
        del keep
        given = [torch.from_numpy(np.ascontiguousarray(to_numpy(feeds[spec.name]))) for spec in self.inputs]
        with torch.inference_mode():
            found = self._exportable.module(*given)
        named = zip(self.outputs, found, strict=True)
        return {spec.name: value.numpy() for spec, value in named if not want or spec.name in want}


@dataclass(frozen=True)
class Gap:
    """Of one output of one graph, over all cases: the largest difference, and the largest value beside it."""

    output: str
    difference: float
    magnitude: float

    @property
    def relative(self) -> float:
        return self.difference / self.magnitude if self.magnitude > 0 else self.difference


def tensor_gaps(exportable: Exportable, session: Session) -> tuple[Gap, ...]:
    """One `Gap` per output; raises ExportFailed for a graph that fails, or is further off than the tolerance."""
    eager = EagerSession(exportable)
    worst = {port.name: Gap(port.name, 0.0, 0.0) for port in exportable.outputs}
    for seed, sizes in enumerate(cases(exportable.axes.values())):
        values = exportable.examples(sizes, seed)
        feeds: dict[str, Tensor] = {p.name: v.numpy() for p, v in zip(exportable.inputs, values, strict=True)}
        try:
            found = {name: to_numpy(value) for name, value in session.run(feeds).items()}
        except Exception as error:
            raise ExportFailed(f"the exported graph fails on {_told(sizes)}: {error}") from error
        for name, value in eager.run(feeds).items():
            gap = _gap(name, found.get(name), to_numpy(value), sizes)
            worst[name] = Gap(
                name, max(gap.difference, worst[name].difference), max(gap.magnitude, worst[name].magnitude)
            )
    return tuple(worst.values())


def cases(axes: Iterable[Axis]) -> Iterator[dict[str, int]]:
    """Sizes of the free axes: every batch size with every length."""
    known = list(axes)
    for sizes in product(*(axis.tried for axis in known)):
        yield {axis.name: size for axis, size in zip(known, sizes, strict=True)}


def _gap(name: str, found: Array | None, expected: Array, sizes: Mapping[str, int]) -> Gap:
    if found is None or found.shape != expected.shape:
        shape = "nothing" if found is None else str(found.shape)
        raise ExportFailed(f"output {name!r} on {_told(sizes)} is {shape}; the network gives {expected.shape}")
    difference = np.abs(found.astype(np.float64) - expected.astype(np.float64))
    gap = Gap(name, float(difference.max(initial=0.0)), float(np.abs(expected).max(initial=0)))
    if not gap.relative <= TENSOR_TOLERANCE:
        raise ExportFailed(
            f"output {name!r} on {_told(sizes)} differs by {gap.difference:.3g} from the network's, whose largest "
            f"value is {gap.magnitude:.3g}; {TENSOR_TOLERANCE:g} of that is allowed"
        )
    return gap


def _told(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} = {size}" for name, size in sizes.items())


@dataclass(frozen=True)
class Twins:
    """The same bundle twice: run by its exported graphs, and by the networks that they came from."""

    exported: LoadedModel
    eager: LoadedModel


def segment_gap(twins: Twins, samples: Sequence[Path]) -> tuple[int, float]:
    """How many segments found their equal, and the largest difference of their times in seconds.

    `samples` are real input: videos, or features (T, C) in .npy files. Raises ExportFailed where segments differ.
    """
    compared, furthest_s = 0, 0.0
    for what, found, expected in _answers(twins, samples):
        pairs, apart_s = match(found, expected, what)
        compared, furthest_s = compared + pairs, max(furthest_s, apart_s)
    return compared, furthest_s


def match(found: Sequence[Segment], expected: Sequence[Segment], what: str) -> tuple[int, float]:
    """How many pairs there are, and the largest difference of times within one.

    Every segment needs a partner of its own: of the same label, nearly the same score and nearly the same times. Only
    those that score as little as the last may be others, one for one: which of two nearly equal candidates is the last
    one kept is a toss-up.
    """
    near = sorted(
        (apart, left, right)
        for left, segment in enumerate(expected)
        for right, other in enumerate(found)
        if (apart := _apart(segment, other)) <= 1
    )
    partners: dict[int, int] = {}
    taken: set[int] = set()
    for _, left, right in near:
        if left not in partners and right not in taken:
            partners[left] = right
            taken.add(right)
    missed = [segment for left, segment in enumerate(expected) if left not in partners]
    added = [segment for right, segment in enumerate(found) if right not in taken]
    last = min((segment.score for segment in expected), default=0.0)
    ties = len(missed) == len(added) and max((s.score for s in [*missed, *added]), default=0) <= last + SCORE_TOLERANCE
    if not ties or (missed and not partners):
        alone = max([*missed, *added], key=lambda segment: segment.score)
        where = "the network's answer" if alone in missed else "the exported graphs' answer"
        raise ExportFailed(
            f"{what}: {alone.label!r} from {alone.start_s:.3f} to {alone.end_s:.3f} s, score {alone.score:.4f}, "
            f"is only in {where}"
        )
    return len(partners), max((_apart_s(expected[left], found[right]) for left, right in partners.items()), default=0.0)


def _apart(a: Segment, b: Segment) -> float:
    """Up to 1: the same within the tolerances."""
    if a.label != b.label:
        return np.inf
    return max(_apart_s(a, b) / TIME_TOLERANCE_S, abs(a.score - b.score) / SCORE_TOLERANCE)


def _apart_s(a: Segment, b: Segment) -> float:
    return max(abs(a.start_s - b.start_s), abs(a.end_s - b.end_s))


def _answers(twins: Twins, samples: Sequence[Path]) -> Iterator[tuple[str, list[Segment], list[Segment]]]:
    """Name, exported answer and eager answer for random sequences of several lengths, then for each real sample."""
    grid = twins.eager.manifest.grid
    for number, count in enumerate(SNIPPETS):
        if count * grid.stride_frames > MOST_FRAMES and count > SNIPPETS[0]:
            continue
        sequences = _random_sequences(twins, count, number)
        yield from _both(twins, f"{count} random snippets", *sequences)
    for path in samples:
        if path.suffix == ".npy":
            values = _read_features(path, _feature_channels(twins.eager))
            sequence = _sequence(twins.eager, values, None, len(values))
            yield from _both(twins, path.name, sequence, sequence)
        else:
            for name in _presets(twins):
                options = DetectOptions(min_score=0.0)
                found, expected = (
                    localize(path, model, options, preset=name) for model in (twins.exported, twins.eager)
                )
                yield f"{path.name}, preset {name}", list(found.segments), list(expected.segments)


def _both(
    twins: Twins, what: str, exported: FeatureSequence, eager: FeatureSequence
) -> Iterator[tuple[str, list[Segment], list[Segment]]]:
    for name, preset in _presets(twins).items():
        answers = []
        for model, sequence in ((twins.exported, exported), (twins.eager, eager)):
            found = detection.detect(sequence, model, preset)
            options = DetectOptions(min_score=0.0)
            labels = model.manifest.segment_labels
            answers.append(segments.finalize(found.detections, found.grid, preset, labels, options, found.video_scores))
        yield f"{what}, preset {name}", answers[0], answers[1]


def _presets(twins: Twins) -> dict[Preset, Postprocessing]:
    known = twins.eager.manifest.postprocessing
    return {"use": known.use} if known.evaluation is None else {"use": known.use, "evaluation": known.evaluation}


def _random_sequences(twins: Twins, count: int, seed: int) -> tuple[FeatureSequence, FeatureSequence]:
    """What backbones give: for a detector random features, the same on both sides; else scores of random clips."""
    draw = np.random.default_rng(seed)
    if twins.eager.detector is not None:
        values = draw.standard_normal((count, _feature_channels(twins.eager))).astype(np.float32)
        sequence = _sequence(twins.eager, values, None, count)
        return sequence, sequence
    count = min(count, MOST_CLIPS)
    found = []
    for model in (twins.exported, twins.eager):
        rows = []
        for loaded in model.streams:
            spec = next(spec for spec in loaded.session.inputs if spec.name == loaded.input_name)
            clips = _random_clips(spec, count, seed)
            scores = loaded.session.run({spec.name: clips})[loaded.stream.outputs.scores or ""]
            rows.append(features.activate(to_numpy(scores), loaded.stream.outputs.score_activation))
        found.append(_sequence(model, None, np.mean(rows, axis=0).astype(np.float32), count))
    return found[0], found[1]


def _random_clips(spec: TensorSpec, count: int, seed: int) -> Array:
    """Noise, of another brightness and contrast in every clip: one noise is like another to a network."""
    draw = np.random.default_rng(seed)
    shape = (count, *(size or 1 for size in spec.shape[1:]))
    each = (count, *(1 for _ in shape[1:]))
    level, spread = draw.uniform(-1, 1, each), draw.uniform(0, 1, each)
    noise = level + spread * draw.uniform(-1, 1, shape)
    if spec.dtype == "uint8":
        return np.clip(128 + 127 * noise, 0, 255).astype(np.uint8)
    return (10 * noise).astype(np.float32)


def _feature_channels(model: LoadedModel) -> int:
    detector = model.manifest.detector
    assert detector is not None and model.detector is not None  # noqa: S101, PT018  (the caller asked)
    spec = next(spec for spec in model.detector.session.inputs if spec.name == detector.features)
    return spec.shape[1] or 1


def check_samples(samples: Sequence[Path], channels: int | None) -> None:
    """Refuses, before any work, what could not be compared; `channels` is None where no detector takes features."""
    for path in samples:
        if path.suffix == ".npy":
            _read_features(path, channels)
        elif not path.is_file():
            raise InvalidOptions(f"{path}: no such file; a video, or features in a .npy file, is needed")


def _read_features(path: Path, channels: int | None) -> Array:
    """(T, C) as float32."""
    if channels is None:
        raise InvalidOptions(f"{path}: features are for a detector, and this bundle has none")
    try:
        with path.open("rb") as file:
            values = np.asarray(np.load(file, allow_pickle=False), np.float32)
    except (OSError, ValueError, TypeError, EOFError, MemoryError) as error:
        raise InvalidOptions(f"{path}: no array of numbers: {first_line(error)}") from None
    if values.ndim != 2 or values.shape[1] != channels or not len(values):
        raise InvalidOptions(f"{path}: features have shape {values.shape}; (T, {channels}) is needed")
    if not np.isfinite(values).all():
        raise InvalidOptions(f"{path}: features hold NaN or infinity")
    return values


def _sequence(model: LoadedModel, values: Array | None, scores: Array | None, count: int) -> FeatureSequence:
    manifest = model.manifest
    num_frames = (count - 1) * manifest.grid.stride_frames + manifest.reach_frames
    times_s = np.arange(num_frames) / FPS
    grid = SnippetGrid(times_s, num_frames / FPS, manifest.grid.stride_frames, manifest.grid.offset_frames)
    return FeatureSequence(values, scores, grid, manifest.reach_frames)
