"""Tiny ONNX graphs with known answers, as bytes: what the suite runs instead of trained networks."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = helper.make_opsetid("", 18)


def brightness_scores(
    layout: str = "NTHWC", *, dtype: str = "uint8", batch: int | None = None, frames: int | None = None
) -> bytes:
    """Clips → scores (N, 2): mean brightness, and its complement."""
    nodes = _mean_brightness(layout, dtype)
    nodes += [
        helper.make_node("Sub", ["one", "bright"], ["dark"]),
        helper.make_node("Concat", ["bright", "dark"], ["scores"], axis=1),
    ]
    inputs = [_clips(layout, dtype, batch, frames)]
    return _model(nodes, inputs, [("scores", [batch or "N", 2])], one=np.ones((1, 1), np.float32))


def linear_scores(lines: list[list[float]]) -> bytes:
    """Clips → scores (N, K): slope × mean brightness + offset for each of the K lines."""
    nodes = _mean_brightness("NTHWC", "uint8")
    nodes += [
        helper.make_node("Mul", ["bright", "slopes"], ["risen"]),
        helper.make_node("Add", ["risen", "offsets"], ["scores"]),
    ]
    slopes, offsets = np.array(lines, np.float32).T[:, None]
    inputs = [_clips("NTHWC", "uint8", None)]
    return _model(nodes, inputs, [("scores", ["N", len(lines)])], slopes=slopes, offsets=offsets)


def scores_of_shape(shape: list[int]) -> bytes:
    """Clips → constant scores of one shape, however many clips there are."""
    nodes = _mean_brightness("NTHWC", "uint8")
    nodes += [
        helper.make_node("ReduceMean", ["bright"], ["overall"], keepdims=0),
        helper.make_node("Expand", ["overall", "target"], ["scores"]),
    ]
    return _model(nodes, [_clips("NTHWC", "uint8", None)], [("scores", shape)], target=np.array(shape))


def brightness_features(layout: str = "NTHWC", *, channels: int = 3, half: bool = False) -> bytes:
    """Clips → features (N, channels): mean brightness in every channel, times 1, 2, 3 …"""
    nodes = _mean_brightness(layout, "uint8")
    nodes.append(helper.make_node("Mul", ["bright", "gains"], ["wide" if half else "features"]))
    if half:
        nodes.append(helper.make_node("Cast", ["wide"], ["features"], to=TensorProto.FLOAT16))
    gains = np.arange(1, channels + 1, dtype=np.float32)[None]
    dtype = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    return _model(nodes, [_clips(layout, "uint8", None)], [("features", ["N", channels])], dtype, gains=gains)


def flow_features() -> bytes:
    """Flow clips (N, T, H, W, 2) → features (N, 2): mean displacement in x and y."""
    nodes = [helper.make_node("ReduceMean", ["clips", "axes"], ["features"], keepdims=0)]
    clips = helper.make_tensor_value_info("clips", TensorProto.FLOAT, ["N", "T", "H", "W", 2])
    return _model(nodes, [clips], [("features", ["N", 2])], axes=np.array([1, 2, 3]))


def counting_stream(size_px: int = 8) -> bytes:
    """A streaming classifier: its memory adds up the brightness of the frames since the last reset."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, size_px, size_px, 3])
    memory = helper.make_tensor_value_info("memory_in", TensorProto.FLOAT, [1, 1])
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["mean"], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "second"], ["bright"]),
        helper.make_node("Add", ["memory_in", "bright"], ["memory_out"]),
        helper.make_node("Identity", ["memory_out"], ["total"]),
        helper.make_node("Mul", ["total", "signs"], ["logits"]),
    ]
    return _model(
        nodes,
        [image, memory],
        [("logits", [1, 2]), ("memory_out", [1, 1])],
        axes=np.array([1, 2, 3, 4]),
        second=np.array([1]),
        signs=np.array([[1, -1]], np.float32),
    )


def point_candidates(
    num_classes: int = 2, *, length: int | None = None, batch: int | None = None, channel: int = 0
) -> bytes:
    """Features (B, C, T), mask (B, T) → one candidate per step: [t, t + 1], scored with `channel` where mask holds.

    Class 0 gets the channel's value, every further class half of the one before.
    """
    nodes = [
        helper.make_node("Shape", ["features"], ["shape"]),
        helper.make_node("Gather", ["shape", "two"], ["steps"]),
        helper.make_node("Range", ["zero", "steps", "one"], ["ticks"]),
        helper.make_node("Cast", ["ticks"], ["starts"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["starts", "length"], ["ends"]),
        helper.make_node("Unsqueeze", ["starts", "last"], ["starts_column"]),
        helper.make_node("Unsqueeze", ["ends", "last"], ["ends_column"]),
        helper.make_node("Concat", ["starts_column", "ends_column"], ["pairs"], axis=1),
        helper.make_node("Gather", ["shape", "zero"], ["batch"]),
        helper.make_node("Unsqueeze", ["batch", "first"], ["batch_dim"]),
        helper.make_node("Concat", ["batch_dim", "ones"], ["target"], axis=0),
        helper.make_node("Expand", ["pairs", "target"], ["spans"]),
        helper.make_node("Gather", ["features", "which"], ["channel"], axis=1),
        helper.make_node("Cast", ["mask"], ["valid"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["channel", "valid"], ["value"]),
        helper.make_node("Unsqueeze", ["value", "minus_one"], ["value_column"]),
        helper.make_node("Mul", ["value_column", "halves"], ["scores"]),
    ]
    return _model(
        nodes,
        _detector_inputs(batch, length),
        [("spans", ["B", "N", 2]), ("scores", ["B", "N", num_classes])],
        zero=np.array(0),
        one=np.array(1),
        two=np.array(2),
        which=np.array(channel),
        length=np.array(1, np.float32),
        last=np.array([1]),
        first=np.array([0]),
        minus_one=np.array([-1]),
        ones=np.array([1, 1]),
        halves=(0.5 ** np.arange(num_classes)).astype(np.float32),
    )


def activation_detector(num_classes: int = 2) -> bytes:
    """Features (B, C, T), mask → activations (B, T, K): the first K channels; video_scores (B, K): their maximum."""
    nodes = [
        helper.make_node("Slice", ["features", "begin", "end", "axis"], ["channels"]),
        helper.make_node("Cast", ["mask"], ["valid"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["valid", "axis"], ["valid_row"]),
        helper.make_node("Mul", ["channels", "valid_row"], ["kept"]),
        helper.make_node("Transpose", ["kept"], ["activations"], perm=[0, 2, 1]),
        helper.make_node("ReduceMax", ["kept", "time"], ["video_scores"], keepdims=0),
    ]
    return _model(
        nodes,
        _detector_inputs(None, None),
        [("activations", ["B", "T", num_classes]), ("video_scores", ["B", num_classes])],
        begin=np.array([0]),
        end=np.array([num_classes]),
        axis=np.array([1]),
        time=np.array([2]),
    )


def constant_video_scores(scores: list[float]) -> bytes:
    """Features (1, C, T), mask → video_scores (1, K), whatever the video."""
    nodes = [
        helper.make_node("ReduceMean", ["features", "axes"], ["level"], keepdims=0),
        helper.make_node("Mul", ["level", "nothing"], ["none"]),
        helper.make_node("Add", ["none", "given"], ["row"]),
        helper.make_node("Unsqueeze", ["row", "first"], ["video_scores"]),
    ]
    return _model(
        nodes,
        _detector_inputs(None, None),
        [("video_scores", [1, len(scores)])],
        axes=np.array([0, 1, 2]),
        nothing=np.array(0, np.float32),
        given=np.array(scores, np.float32),
        first=np.array([0]),
    )


def _mean_brightness(layout: str, dtype: str) -> list[onnx.NodeProto]:
    axes = [axis for axis in range(len(layout)) if layout[axis] != "N"]
    scale = 255.0 if dtype == "uint8" else 1.0
    constants = {"axes": np.array(axes), "full": np.array(scale, np.float32), "second": np.array([1])}
    made = [helper.make_node("Constant", [], [name], value=numpy_helper.from_array(v)) for name, v in constants.items()]
    return [
        *made,
        helper.make_node("Cast", ["clips"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "full"], ["level"]),
        helper.make_node("Unsqueeze", ["level", "second"], ["bright"]),
    ]


def _clips(layout: str, dtype: str, batch: int | None, frames: int | None = None) -> onnx.ValueInfoProto:
    shape = [{"N": batch or "N", "C": 3, "T": frames or "T"}.get(axis, axis) for axis in layout]
    return helper.make_tensor_value_info("clips", TensorProto.UINT8 if dtype == "uint8" else TensorProto.FLOAT, shape)


def _detector_inputs(batch: int | None, length: int | None) -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info("features", TensorProto.FLOAT, [batch or "B", "C", length or "T"]),
        helper.make_tensor_value_info("mask", TensorProto.BOOL, [batch or "B", length or "T"]),
    ]


def _model(nodes, inputs, outputs, dtype=TensorProto.FLOAT, **constants: np.ndarray) -> bytes:
    results = [helper.make_tensor_value_info(name, dtype, shape) for name, shape in outputs]
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, results, initializers)
    model = helper.make_model(graph, opset_imports=[OPSET], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()
