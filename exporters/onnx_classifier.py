"""An ONNX clip classifier and its labels in, a bundle that localizes out: windows over the video, class activations.

Torch-free. What the graph itself tells (input type, layout, frame size, clip length, batch) is read from it; what it
cannot tell (sampling rate, window, scaling) is asked for.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from models import bundle as bundles
from models.bundle import BundleError
from service.errors import InvalidBundle, InvalidOptions
from service.runtime import loaded_model
from service.runtime.onnx_session import OnnxOptions, OnnxSession
from service.runtime.session import TensorSpec, to_numpy

GRAPH = "classifier.onnx"
LAYOUTS = {5: ("NTHWC", "NCTHW", "NTCHW"), 4: ("NHWC", "NCHW")}
TAL_TYPES = {"float": "float32", "uint8": "uint8"}
ACTIVE_ABOVE = 0.3  # a class with this mean probability over the windows that cover a frame is called active there
SHORTEST_S = 0.5


@dataclass(frozen=True)
class StateSignature:
    """A streaming graph's tensors by name: the image, the scores, and the memories that are fed back."""

    image: str
    scores: str
    tensors: tuple[dict[str, Any], ...]


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
    window_s: float = 2.0
    step_s: float | None = None
    size_px: int | None = None
    resize: Literal["crop", "stretch"] = "crop"
    interpolation: Literal["linear", "area", "cubic"] = "area"
    layout: str | None = None
    channel_order: Literal["rgb", "bgr"] = "rgb"
    scale: float | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    activation: Literal["auto", "none", "softmax", "sigmoid"] = "auto"
    threshold: float = ACTIVE_ABOVE
    signature: StateSignature | None = None


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
    if wanted.activation == "auto":
        stream["outputs"]["score_activation"] = _guess_activation(session, clip, scores, wanted)
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


def read_labels(text: str) -> tuple[str, ...]:
    """One label per line, or a JSON list; blank lines at the end do not count."""
    if text.lstrip().startswith("["):
        found = _from_json(text, "labels")
        if not all(isinstance(label, str) for label in found):
            raise InvalidOptions("labels: a JSON label file is a list of strings")
        return tuple(found)
    lines = [line.strip() for line in text.rstrip().splitlines()]
    if "" in lines:
        raise InvalidOptions(f"labels: line {lines.index('') + 1} is empty; one label stands on each line")
    return tuple(lines)


def read_signature(text: str) -> StateSignature:
    """A streaming signature: {"inputs": {key: {"name", "shape", "dtype"}}, "outputs": {key: name}}.

    A key on both sides is a memory; the one input and the one output left over are the image and the scores.
    """
    document = _from_json(text, "signature")
    if not isinstance(document, Mapping) or not {"inputs", "outputs"} <= set(document):
        raise InvalidOptions("signature: a JSON object with inputs and outputs is needed")
    inputs, outputs = document["inputs"], document["outputs"]
    free_inputs, free_outputs = set(inputs) - set(outputs), set(outputs) - set(inputs)
    if len(free_inputs) != 1 or len(free_outputs) != 1:
        raise InvalidOptions(
            f"signature: one input and one output without a partner are needed (image, scores); "
            f"found inputs {sorted(free_inputs)} and outputs {sorted(free_outputs)}"
        )
    tensors = tuple(
        {
            "input": inputs[key]["name"],
            "output": outputs[key],
            "shape": inputs[key]["shape"],
            "dtype": inputs[key].get("dtype", "float32"),
        }
        for key in sorted(set(inputs) & set(outputs))
    )
    return StateSignature(inputs[free_inputs.pop()]["name"], outputs[free_outputs.pop()], tensors)


def _from_json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidOptions(f"{what}: not JSON: {error}") from None


def _clip(session: OnnxSession, wanted: ClassifierImport) -> _Clip:
    spec = _image_input(session, wanted)
    layout = wanted.layout or _guess_layout(spec)
    if spec.dtype not in TAL_TYPES:
        raise InvalidBundle(f"input {spec.name!r} takes {spec.dtype}; uint8 and float32 can be fed")
    sizes = dict(zip(layout, spec.shape, strict=True))
    size_px = (sizes["W"] or wanted.size_px, sizes["H"] or wanted.size_px)
    if None in size_px:
        raise InvalidOptions(f"input {spec.name!r} of shape {spec.shape} leaves the frame size open; say size_px")
    width, height = int(size_px[0] or 0), int(size_px[1] or 0)
    step_frames = sizes.get("T", 1)
    if wanted.signature:
        clip_frames, fps = _free_length(wanted, multiple_of=step_frames or 1)
        return _Clip(spec, layout, (width, height), clip_frames, step_frames or 1, fps)
    if step_frames is None:
        clip_frames, fps = _free_length(wanted, multiple_of=1)
    else:
        clip_frames, fps = step_frames, _fixed_rate(wanted, step_frames)
    return _Clip(spec, layout, (width, height), clip_frames, clip_frames, fps)


def _free_length(wanted: ClassifierImport, multiple_of: int) -> tuple[int, float]:
    if wanted.fps is None:
        raise InvalidOptions("fps: the graph does not fix the number of frames; say at how many a second it sees video")
    frames = max(1, round(wanted.window_s * wanted.fps / multiple_of)) * multiple_of
    return frames, wanted.fps


def _fixed_rate(wanted: ClassifierImport, clip_frames: int) -> float:
    """A graph with a fixed clip length has its rate from the window, unless the caller names the rate instead."""
    return wanted.fps or clip_frames / wanted.window_s


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
    if wanted.signature:
        return wanted.signature.scores
    fitting = [spec.name for spec in session.outputs if spec.shape and spec.shape[-1] in (None, len(wanted.labels))]
    if len(fitting) != 1:
        shapes = ", ".join(f"{spec.name} {spec.shape}" for spec in session.outputs)
        raise InvalidBundle(
            f"labels has {len(wanted.labels)} names; of the graph's outputs ({shapes}) "
            f"{len(fitting)} could hold their scores"
        )
    return fitting[0]


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


def _guess_activation(session: OnnxSession, clip: _Clip, scores: str, wanted: ClassifierImport) -> str:
    """Probabilities stay as they are; anything else is taken for logits of a softmax."""
    noise = np.random.default_rng(0)
    sizes = {"N": 1, "T": clip.step_frames, "C": 3, "W": clip.size_px[0], "H": clip.size_px[1]}
    shape = [sizes[axis] if fixed is None else fixed for axis, fixed in zip(clip.layout, clip.input.shape, strict=True)]
    image = noise.random(shape, np.float32)
    feeds: dict[str, Any] = {clip.input.name: image if clip.input.dtype == "float" else (image * 255).astype(np.uint8)}
    for tensor in wanted.signature.tensors if wanted.signature else ():
        feeds[tensor["input"]] = np.zeros(tensor["shape"], tensor["dtype"])
    found = to_numpy(session.run(feeds, want=[scores])[scores]).reshape(shape[0], -1)
    is_distribution = found.min() >= 0 and np.allclose(found.sum(axis=1), 1, atol=1e-3)
    return "none" if is_distribution else "softmax"


def _manifest(clip: _Clip, stream: dict[str, Any], wanted: ClassifierImport) -> dict[str, Any]:
    window_s = clip.clip_frames / clip.fps
    step_s = wanted.step_s if wanted.step_s is not None else window_s / 4
    grouping = {
        "support": "mean",
        "threshold": {"kind": "absolute", "values": [wanted.threshold]},
        "min_length_frames": max(1, round(SHORTEST_S * clip.fps)),
        "score": "max",
    }
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
            "stride_frames": max(1, round(step_s * clip.fps)),
            "offset_frames": clip.clip_frames / 2,
            "tail": "pad",
        },
        "output_kind": "activations",
        "postprocessing": {"use": {"grouping": grouping}, "evaluation": {"grouping": grouping, "score_map": None}},
    }
