"""TorchScript twins of the tiny ONNX graphs, as bytes; and bundles in which they take their places. Needs torch."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from models import bundle as bundles
from models.bundle import MANIFEST, Bundle
from service.runtime.session import TensorSpec
from service.runtime.torchscript_session import IO_FILE, deprecation_expected, io_json

CLIPS = TensorSpec("clips", (None, None, None, None, 3), "uint8")
DETECTOR_INPUTS = (TensorSpec("features", (None, None, None), "float"), TensorSpec("mask", (None, None), "bool"))


def floats(name: str, *shape: int | None) -> TensorSpec:
    return TensorSpec(name, shape, "float")


def archive(network: nn.Module, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> bytes:
    return undescribed(network, {IO_FILE: io_json(inputs, outputs)})


def undescribed(network: nn.Module, extra_files: Mapping[str, str]) -> bytes:
    """An archive with whatever extra files, which need not describe it."""
    buffer = io.BytesIO()
    with deprecation_expected():
        torch.jit.save(torch.jit.script(network.eval()), buffer, _extra_files=dict(extra_files))
    return buffer.getvalue()


class BrightnessScores(nn.Module):
    def forward(self, clips: Tensor) -> Tensor:
        bright = clips.float().mean(dim=(1, 2, 3, 4)).unsqueeze(1) / 255
        return torch.cat([bright, 1 - bright], dim=1)


def brightness_scores() -> bytes:
    """Clips → scores (N, 2): mean brightness, and its complement."""
    return archive(BrightnessScores(), [CLIPS], [floats("scores", None, 2)])


class BrightnessFeatures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gains = nn.Parameter(torch.tensor([[1.0, 2.0, 3.0]]))

    def forward(self, clips: Tensor) -> tuple[Tensor]:
        return (clips.float().mean(dim=(1, 2, 3, 4)).unsqueeze(1) / 255 * self.gains,)


def brightness_features() -> bytes:
    """Clips → features (N, 3): mean brightness in every channel, times 1, 2, 3."""
    return archive(BrightnessFeatures(), [CLIPS], [floats("features", None, 3)])


class ActivationDetector(nn.Module):
    def forward(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        kept = features[:, :2] * mask.unsqueeze(1).float()
        return kept.transpose(1, 2), kept.amax(dim=2)


def activation_detector() -> bytes:
    """Features (B, C, T), mask → activations (B, T, 2): the first channels; video_scores (B, 2): their maximum."""
    outputs = [floats("activations", None, None, 2), floats("video_scores", None, 2)]
    return archive(ActivationDetector(), DETECTOR_INPUTS, outputs)


class PointCandidates(nn.Module):
    def forward(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        starts = torch.arange(features.shape[2], device=features.device, dtype=torch.float32)
        spans = torch.stack([starts, starts + 1], dim=1).expand(features.shape[0], -1, -1)
        value = features[:, 0] * mask.float()
        return spans, torch.stack([value, value / 2], dim=2)


def point_candidates() -> bytes:
    """Features (B, C, T), mask → one candidate per step: [t, t + 1], scored with channel 0 where mask holds."""
    return archive(
        PointCandidates(), DETECTOR_INPUTS, [floats("spans", None, None, 2), floats("scores", None, None, 2)]
    )


class JoinRows(nn.Module):
    def forward(self, part_0: Tensor, part_1: Tensor) -> Tensor:
        return torch.cat([part_0, part_1])


def concat_rows() -> bytes:
    """part_0 (n, C), part_1 (m, C) → rows (n + m, C)."""
    parts = [floats("part_0", None, None), floats("part_1", None, None)]
    return archive(JoinRows(), parts, [floats("rows", None, None)])


class CountingStream(nn.Module):
    def forward(self, image: Tensor, memory_in: Tensor) -> tuple[Tensor, Tensor]:
        memory_in += image.mean()  # in place, as streaming networks do: callers must not notice
        return torch.cat([memory_in, -memory_in], dim=1), memory_in


def counting_stream() -> bytes:
    """A streaming classifier: its memory adds up the brightness of the frames since the last reset."""
    inputs = [floats("image", 1, 1, 8, 8, 3), floats("memory_in", 1, 1)]
    return archive(CountingStream(), inputs, [floats("logits", 1, 2), floats("memory_out", 1, 1)])


def twin(bundle: Bundle, folder: Path, archives: Mapping[str, bytes]) -> Bundle:
    """A bundle in which archives, by the names of graphs without their ending, stand for the ONNX graphs."""
    text = (bundle.folder / MANIFEST).read_text()
    files = {name: bundle.read_file(name) for name in bundle.manifest.files}
    for stem, content in archives.items():
        text = text.replace(f'"{stem}.onnx"', f'"{stem}.pt"')
        del files[f"{stem}.onnx"]
        files[f"{stem}.pt"] = content
    return bundles.write(folder, json.loads(text), files)
