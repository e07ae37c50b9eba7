"""An ONNX clip classifier and its labels in, a bundle that localizes out: windows over the video, class activations.

Torch-free. What the graph itself tells (input type, layout, frame size, clip length, batch) is read from it; what it
cannot tell (sampling rate, window, scaling) is asked for.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import numpy as np

from exporters.side_files import StateSignature
from models import bundle as bundles
from models.bundle import BundleError
from service.errors import InvalidBundle, InvalidOptions
from service.runtime import loaded_model
from service.runtime.onnx_session import OnnxOptions, OnnxSession
from service.runtime.session import Array, Tensor, TensorSpec, to_numpy

GRAPH = "classifier.onnx"
LAYOUTS = {5: ("NTHWC", "NCTHW", "NTCHW"), 4: ("NHWC", "NCHW")}
TAL_TYPES = {"float": "float32", "uint8": "uint8"}
SCORE_TYPES = ("float", "double")
WINDOW_S = 2.0
MAX_FPS = 1000.0
ACTIVE_ABOVE = 0.3  # a class with this mean probability over the windows that cover a frame is called active there
SHORTEST_S = 0.5


@dataclass(frozen=True)
class ClassifierImport:
    """What the caller says of the classifier; None leaves it to the graph or to the default named in the docs."""

    name: str
    labels: tuple[str, ...]
    version: str = "1.0.0"
    licence: str = "unknown"
    provenance: str = "imported ONNX classifier"
    label_groups: tuple[tuple[str, tuple[str, ...]], ...] = ()
    fps: float | None = None
    window_s: float | None = None
    step_s: float | None = None
    size_px: int | None = None
    resize: Literal["crop", "stretch"] = "crop"
    interpolation: Literal["linear", "area", "cubic"] = "area"
    layout: str | None = None
    channel_order: Literal["rgb", "bgr"] = "rgb"
    scale: float | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scores: str | None = None
    activation: Literal["auto", "none", "softmax", "sigmoid"] = "auto"
    threshold: float = ACTIVE_ABOVE
    signature: StateSignature | None = None

    def __post_init__(self) -> None:
        for what in ("fps", "window_s", "step_s", "scale", "size_px"):
            value = getattr(self, what)
            if value is not None and not (isfinite(value) and value > 0):
                raise InvalidOptions(f"{what} is {value}; a number above 0 is needed")
        if self.fps is not None and self.fps > MAX_FPS:
            raise InvalidOptions(f"fps is {self.fps:g}; at most {MAX_FPS:g} frames a second can be sampled")
        if not 0 <= self.threshold < 1:
            raise InvalidOptions(f"threshold is {self.threshold}; it lies between 0 and 1")
        for what in ("mean", "std"):
            values = getattr(self, what)
            if len(values) not in (1, 3) or not all(isfinite(value) for value in values):
                raise InvalidOptions(f"{what} is {values}; one number or three are needed")
        if min(self.std) <= 0:
            raise InvalidOptions(f"std is {self.std}; numbers above 0 are needed")
        if self.layout is not None and self.layout not in LAYOUTS[5] + LAYOUTS[4]:
            raise InvalidOptions(f"layout is {self.layout!r}; accepted are {', '.join(LAYOUTS[5] + LAYOUTS[4])}")


@dataclass(frozen=True)
class _Clip:
    """How the graph takes its frames."""

    input: TensorSpec
    layout: str
    size_px: tuple[int, int]
    clip_frames: int
    step_frames: int
    fps: float


def wrap(graph: bytes, wanted: ClassifierImport, folder: Path) -> bundles.Bundle:
    """Writes the bundle and loads it once, so that what cannot run is refused now."""
    session = OnnxSession(graph, OnnxOptions(device="cpu"), name=GRAPH)
    clip = _clip(session, wanted)
    scores = _scores_output(session, wanted)
    stream = _stream(clip, scores, wanted)
    samples = _try_out(session, clip, scores, wanted)
    if wanted.activation == "auto":
        stream["outputs"]["score_activation"] = _guess_activation(samples)
    try:
        bundle = bundles.write(folder, _manifest(clip, stream, wanted), {GRAPH: graph})
    except BundleError as error:
        raise InvalidBundle(str(error)) from error
    try:
        loaded_model.load(folder, OnnxOptions(device="cpu"))
    except InvalidBundle:
        shutil.rmtree(folder)
        raise
    return bundle


def _clip(session: OnnxSession, wanted: ClassifierImport) -> _Clip:
    spec = _image_input(session, wanted)
    if spec.dtype not in TAL_TYPES:
        raise InvalidBundle(f"input {spec.name!r} takes {spec.dtype}; uint8 and float32 can be fed")
    layout = wanted.layout or _guess_layout(spec)
    if len(layout) != len(spec.shape):
        raise InvalidOptions(f"layout {layout} has {len(layout)} axes, input {spec.name!r} has shape {spec.shape}")
    if spec.dtype == "uint8" and (wanted.scale, wanted.mean, wanted.std) != (None, (0.0,), (1.0,)):
        raise InvalidOptions(f"input {spec.name!r} takes bytes as they are; scale, mean and std do not apply to it")
    sizes = dict(zip(layout, spec.shape, strict=True))
    size_px = _frame_size(spec, sizes, wanted)
    if wanted.signature:
        step_frames = sizes.get("T", 1) or 1
        clip_frames, fps = _free_length(wanted, multiple_of=step_frames)
        return _Clip(spec, layout, size_px, clip_frames, step_frames, fps)
    if "T" not in sizes:
        return _Clip(spec, layout, size_px, 1, 1, _image_rate(wanted))
    if sizes["T"] is None:
        clip_frames, fps = _free_length(wanted, multiple_of=1)
    else:
        clip_frames, fps = sizes["T"], _fixed_rate(wanted, sizes["T"])
    return _Clip(spec, layout, size_px, clip_frames, clip_frames, fps)


def _frame_size(spec: TensorSpec, sizes: Mapping[str, int | None], wanted: ClassifierImport) -> tuple[int, int]:
    width, height = sizes["W"] or wanted.size_px, sizes["H"] or wanted.size_px
    if width is None or height is None:
        raise InvalidOptions(f"input {spec.name!r} of shape {spec.shape} leaves the frame size open; say size_px")
    if wanted.size_px not in (None, width, height):
        raise InvalidOptions(f"size_px is {wanted.size_px}, but input {spec.name!r} takes {width}x{height} px")
    return width, height


def _free_length(wanted: ClassifierImport, multiple_of: int) -> tuple[int, float]:
    if wanted.fps is None:
        raise InvalidOptions("fps: the graph does not fix the number of frames; say at how many a second it sees video")
    window_s = WINDOW_S if wanted.window_s is None else wanted.window_s
    return max(1, round(window_s * wanted.fps / multiple_of)) * multiple_of, wanted.fps


def _fixed_rate(wanted: ClassifierImport, clip_frames: int) -> float:
    """A graph with a fixed clip length takes its window from the rate or its rate from the window, never both."""
    if wanted.fps is None:
        return clip_frames / (WINDOW_S if wanted.window_s is None else wanted.window_s)
    if wanted.window_s is not None and abs(wanted.window_s * wanted.fps - clip_frames) > 0.5:
        raise InvalidOptions(
            f"the graph takes {clip_frames} frames, which at fps {wanted.fps:g} are {clip_frames / wanted.fps:g} s, "
            f"not window_s {wanted.window_s:g}; say one of the two"
        )
    return wanted.fps


def _image_rate(wanted: ClassifierImport) -> float:
    """An image classifier judges moments; a step is the time between them."""
    if wanted.window_s is not None:
        raise InvalidOptions("window_s: the graph sees single frames; say fps or step_s, how often it looks at one")
    if wanted.fps is not None and wanted.step_s is not None:
        raise InvalidOptions("fps and step_s say the same of a graph that sees single frames; say one of them")
    if wanted.fps is None and wanted.step_s is None:
        raise InvalidOptions("fps: the graph sees single frames; say how many a second")
    return wanted.fps if wanted.fps is not None else 1 / (wanted.step_s or 1)


def _image_input(session: OnnxSession, wanted: ClassifierImport) -> TensorSpec:
    if wanted.signature:
        named = [spec for spec in session.inputs if spec.name == wanted.signature.image]
        if not named:
            raise InvalidBundle(f"signature names the input {wanted.signature.image!r}, which the graph does not have")
        return named[0]
    if len(session.inputs) != 1:
        names = ", ".join(spec.name for spec in session.inputs)
        raise InvalidOptions(f"the graph has {len(session.inputs)} inputs ({names}): describe its state in a signature")
    return session.inputs[0]


def _guess_layout(spec: TensorSpec) -> str:
    fitting = [
        layout for layout in LAYOUTS.get(len(spec.shape), ()) if dict(zip(layout, spec.shape, strict=True))["C"] == 3
    ]
    if len(fitting) != 1:
        raise InvalidOptions(
            f"layout: input {spec.name!r} of shape {spec.shape} could be {fitting or 'anything'}; "
            f"name one of {', '.join(LAYOUTS[5] + LAYOUTS[4])}"
        )
    return fitting[0]


def _scores_output(session: OnnxSession, wanted: ClassifierImport) -> str:
    named = wanted.scores or (wanted.signature.scores if wanted.signature else None)
    if named is not None:
        fitting = [spec for spec in session.outputs if spec.name == named]
    else:
        fitting = [spec for spec in session.outputs if _holds(spec, len(wanted.labels))]
    if len(fitting) != 1:
        shapes = ", ".join(f"{spec.name!r} {spec.shape}" for spec in session.outputs)
        asked = f"output {named!r} is not one of" if named else f"{len(fitting)} could hold their scores of"
        raise InvalidBundle(f"labels has {len(wanted.labels)} names; {asked} the graph's outputs ({shapes})")
    if fitting[0].dtype not in SCORE_TYPES:
        raise InvalidBundle(f"output {fitting[0].name!r} gives {fitting[0].dtype}; scores are floating-point numbers")
    return fitting[0].name


def _holds(spec: TensorSpec, num_labels: int) -> bool:
    """(N, K), perhaps with axes of length 1 behind."""
    rest = [side for side in spec.shape[1:] if side != 1]
    return len(spec.shape) > 1 and (rest in ([num_labels], [None]) or (not rest and num_labels == 1))


def _stream(clip: _Clip, scores: str, wanted: ClassifierImport) -> dict[str, Any]:
    dtype = TAL_TYPES[clip.input.dtype]
    stretch = wanted.resize == "stretch"
    scaling: dict[str, Any] = {}
    if dtype == "float32":
        scale = 1 / 255 if wanted.scale is None else wanted.scale
        scaling = {"scale": scale, "mean": list(wanted.mean), "std": list(wanted.std)}
    stream: dict[str, Any] = {
        "name": "rgb",
        "graph": GRAPH,
        "clip_frames": clip.clip_frames,
        "resize": {
            "mode": "exact" if stretch else "short_side",
            "size_px": list(clip.size_px) if stretch else max(clip.size_px),
            "interpolation": wanted.interpolation,
        },
        "crop_px": None if stretch else list(clip.size_px),
        "input": {
            "name": clip.input.name,
            "dtype": dtype,
            "layout": clip.layout,
            "channel_order": wanted.channel_order,
            **scaling,
        },
        "outputs": {"scores": scores, "score_activation": "none" if wanted.activation == "auto" else wanted.activation},
    }
    if wanted.signature:
        stream["state"] = {"reset": "window", "step_frames": clip.step_frames, "tensors": wanted.signature.tensors}
    return stream


def _try_out(session: OnnxSession, clip: _Clip, output: str, wanted: ClassifierImport) -> Array:
    """Scores (M, K) of black, white and noisy clips; a graph that mixes clips up, or gives other shapes, is refused."""
    sizes = {
        "N": 1 if wanted.signature else 2,
        "T": clip.step_frames,
        "C": 3,
        "W": clip.size_px[0],
        "H": clip.size_px[1],
    }
    shape = [fixed or sizes[axis] for axis, fixed in zip(clip.layout, clip.input.shape, strict=True)]
    noise = np.random.default_rng(0).random(shape, np.float32)
    rows = []
    for image in (np.zeros_like(noise), np.ones_like(noise), noise):
        feeds: dict[str, Tensor] = {
            clip.input.name: image if clip.input.dtype == "float" else (image * 255).astype(np.uint8)
        }
        for tensor in wanted.signature.tensors if wanted.signature else ():
            feeds[tensor["input"]] = np.zeros(tensor["shape"], tensor["dtype"])
        found = to_numpy(session.run(feeds, want=[output])[output])
        if not found.ndim or found.shape[0] != shape[0] or found.size != shape[0] * len(wanted.labels):
            raise InvalidBundle(
                f"output {output!r} has shape {found.shape} for {shape[0]} clip(s) and {len(wanted.labels)} labels; "
                f"({shape[0]}, {len(wanted.labels)}) is needed"
            )
        rows.append(found.reshape(shape[0], -1))
    return np.concatenate(rows)


def _guess_activation(scores: Array) -> str:
    """What lies in [0, 1] is a probability already; other scores are logits, of one label or of a choice."""
    if scores.min() >= 0 and scores.max() <= 1 + 1e-3:
        return "none"
    return "sigmoid" if scores.shape[1] == 1 else "softmax"


def _manifest(clip: _Clip, stream: dict[str, Any], wanted: ClassifierImport) -> dict[str, Any]:
    window_s = clip.clip_frames / clip.fps
    step_s = window_s / 4 if wanted.step_s is None else wanted.step_s
    stride_frames = 1 if clip.clip_frames == 1 else max(1, round(step_s * clip.fps))
    if stride_frames > clip.clip_frames:
        raise InvalidOptions(f"step_s {step_s:g} leaves gaps: a window covers {window_s:g} s")
    use = {
        "support": "mean",
        "threshold": {"kind": "absolute", "values": [wanted.threshold]},
        "min_length_frames": max(1, round(SHORTEST_S * clip.fps)),
        "score": "max",
    }
    # A metric wants many segments with scores that rank them: every level that a threshold could have.
    sweep = {
        **use,
        "threshold": {"kind": "absolute", "values": [level / 20 for level in range(1, 20)]},
        "score": "inner",
    }
    duplicates = {"kind": "hard", "iou_threshold": 0.95}
    return {
        "name": wanted.name,
        "version": wanted.version,
        "licence": wanted.licence,
        "provenance": wanted.provenance,
        "labels": list(wanted.labels),
        "label_groups": [{"label": label, "members": list(members)} for label, members in wanted.label_groups],
        "streams": [stream],
        "grid": {
            "fps": clip.fps,
            "stride_frames": stride_frames,
            "offset_frames": clip.clip_frames / 2,
            "tail": "pad",
        },
        "output_kind": "activations",
        "postprocessing": {
            "use": {"grouping": use},
            "evaluation": {"grouping": sweep, "nms": duplicates, "score_map": None},
        },
    }
