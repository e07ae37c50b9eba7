"""Clips are prepared exactly as the manifest says, and every kind of backbone gives its rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from models import bundle as bundles
from models.manifest import InputFormat
from service.errors import InvalidBundle
from service.pipeline import features as featuring
from service.pipeline.features import StreamExtractor, activate, crop, fuse_streams, prepare
from service.runtime import loaded_model
from service.runtime.loaded_model import LoadedModel
from service.runtime.onnx_session import OnnxOptions
from service.runtime.session import to_numpy
from service.telemetry import Stopwatch
from tests.support import bundles as tiny
from tests.support import graphs

CPU = OnnxOptions(device="cpu", threads=1)


def wanted(**fields) -> InputFormat:
    return InputFormat.model_validate_json(json.dumps(fields))


CLIPS = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 6, 3), np.uint8)


def test_a_uint8_input_is_handed_over_as_it_is() -> None:
    assert np.array_equal(prepare(CLIPS, wanted()), CLIPS)


@pytest.mark.parametrize("layout", ["NTHWC", "NCTHW", "NTCHW"])
def test_layouts_move_axes_and_nothing_else(layout: str) -> None:
    found = prepare(CLIPS, wanted(layout=layout))
    for n, t, h, w, c in [(0, 1, 2, 3, 1), (1, 3, 4, 5, 2)]:
        place = dict(zip("NTHWC", (n, t, h, w, c), strict=True))
        assert found[tuple(place[axis] for axis in layout)] == CLIPS[n, t, h, w, c]


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_a_single_frame_loses_its_time_axis(layout: str) -> None:
    found = prepare(CLIPS[:, :1], wanted(layout=layout))
    assert np.array_equal(found, CLIPS[:, 0] if layout == "NHWC" else CLIPS[:, 0].transpose(0, 3, 1, 2))


def test_float_inputs_are_scaled_then_centred_then_divided() -> None:
    rule = wanted(dtype="float32", scale=1 / 255, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    expected = (CLIPS / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert prepare(CLIPS, rule) == pytest.approx(expected, abs=1e-5)
    assert prepare(CLIPS, rule).dtype == np.float32


def test_blue_first_is_red_last() -> None:
    assert np.array_equal(prepare(CLIPS, wanted(channel_order="bgr")), CLIPS[..., ::-1])


def test_scores_become_probabilities_without_overflow() -> None:
    raw = np.array([[1000.0, 0.0, -1000.0]])
    assert activate(raw, "softmax").tolist() == [[1, 0, 0]]
    assert activate(raw, "sigmoid") == pytest.approx(np.array([[1, 0.5, 0]]))
    assert activate(raw, "none").tolist() == raw.tolist()


def test_late_fusion_is_the_weighted_mean_of_the_streams() -> None:
    rgb, flow = np.array([[1.0, 0.0]], np.float32), np.array([[0.0, 1.0]], np.float32)
    assert fuse_streams([rgb, flow], [1, 3]) == pytest.approx(np.array([[0.25, 0.75]]))


def test_a_crop_is_the_centre() -> None:
    field = np.arange(6 * 8).reshape(1, 6, 8, 1)
    assert crop(field, (4, 2))[0, :, :, 0].tolist() == [[18, 19, 20, 21], [26, 27, 28, 29]]


def run(model: LoadedModel, frames: np.ndarray, chunk: int = 5) -> StreamExtractor:
    loaded = model.streams[0]
    grid = model.manifest.grid
    rule = featuring.clip_rule(loaded.stream, grid.stride_frames, loaded.stream.span_frames, grid.tail)
    extractor = StreamExtractor(loaded, rule, model.ops, Stopwatch())
    for at in range(0, len(frames), chunk):
        extractor.push(frames[at : at + chunk])
    extractor.finish()
    return extractor


def frames(values: list[int], size_px: int = 16) -> np.ndarray:
    return np.stack([np.full((size_px, size_px, 3), value, np.uint8) for value in values])


def test_rows_of_features_follow_the_video(tmp_path: Path) -> None:
    tiny.candidates(tmp_path / "b")
    model = loaded_model.load(tmp_path / "b", CPU)
    found = to_numpy(run(model, frames([0] * 4 + [255] * 4)).features())
    assert found[:, 0] == pytest.approx([0, 0.5, 1])


def test_a_graph_with_a_fixed_batch_is_filled_up_and_cut_back(tmp_path: Path) -> None:
    described = tiny.manifest()
    bundles.write(tmp_path / "b", described, {"features.rgb.onnx": graphs.brightness_scores(batch=4)})
    model = loaded_model.load(tmp_path / "b", CPU)
    assert run(model, frames([0, 51, 102, 153, 204, 255])).scores()[:, 0] == pytest.approx(np.arange(6) / 5)


def streaming(folder: Path, reset: str, clip_frames: int, stride: int) -> LoadedModel:
    state = {"reset": reset, "tensors": [{"input": "memory_in", "output": "memory_out", "shape": [1, 1]}]}
    stream = tiny.stream(
        clip_frames=clip_frames,
        resize={"mode": "exact", "size_px": [8, 8]},
        input={"dtype": "float32", "scale": 1 / 255},
        outputs={"scores": "logits"},
        state=state,
    )
    grid = {"fps": "native", "stride_frames": stride, "offset_frames": 0}
    bundles.write(folder, tiny.manifest(streams=[stream], grid=grid), {"features.rgb.onnx": graphs.counting_stream()})
    return loaded_model.load(folder, CPU)


def test_a_streaming_graph_forgets_between_windows(tmp_path: Path) -> None:
    model = streaming(tmp_path / "b", "window", clip_frames=3, stride=1)
    assert run(model, frames([255] * 5, 8)).scores()[:, 0] == pytest.approx([3, 3, 3])


def test_a_streaming_graph_can_remember_the_whole_video(tmp_path: Path) -> None:
    model = streaming(tmp_path / "b", "video", clip_frames=2, stride=2)
    assert run(model, frames([255] * 6, 8)).scores()[:, 0] == pytest.approx([2, 4, 6])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["only one"]}, "gives 2 classes, but labels has 1 names"),
        ({"streams": [tiny.stream(outputs={"scores": "logits"})]}, "scores output 'logits' is not in the graph"),
        ({"streams": [tiny.stream(input={"name": "pixels"})]}, "input 'pixels' is not in the graph"),
        ({"streams": [tiny.stream(input={"dtype": "float32"})]}, "the manifest says input float, graph input 'clips'"),
        ({"streams": [tiny.stream(input={"layout": "NCHW"})]}, "layout NCHW does not fit graph input 'clips'"),
        ({"streams": [tiny.stream(input={"layout": "NTCHW"})]}, "has W = 3, the manifest gives 16"),
    ],
)
def test_a_graph_that_is_not_what_the_manifest_says_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    tiny.classifier(tmp_path / "b", **change)
    with pytest.raises(InvalidBundle, match=message):
        loaded_model.load(tmp_path / "b", CPU)


def test_a_detector_for_other_windows_than_the_manifest_makes_is_refused(tmp_path: Path) -> None:
    described = tiny.manifest(
        streams=[tiny.stream(outputs={"features": "features"})],
        output_kind="candidates",
        windowing={"mode": "sliding", "length": 16, "hop": 16},
        detector={"graph": "detector.onnx"},
        postprocessing={"use": {}},
    )
    files = {"features.rgb.onnx": graphs.brightness_features(), "detector.onnx": graphs.point_candidates(length=8)}
    bundles.write(tmp_path / "b", described, files)
    with pytest.raises(InvalidBundle, match="takes windows of 8 steps, but windowing makes them 16 long"):
        loaded_model.load(tmp_path / "b", CPU)


def test_features_in_half_precision_are_refused_when_loading(tmp_path: Path) -> None:
    described = tiny.manifest(
        streams=[tiny.stream(outputs={"features": "features"})],
        output_kind="candidates",
        windowing={"mode": "whole"},
        detector={"graph": "detector.onnx"},
        postprocessing={"use": {}},
    )
    files = {
        "features.rgb.onnx": graphs.brightness_features(half=True),
        "detector.onnx": graphs.point_candidates(),
    }
    bundles.write(tmp_path / "b", described, files)
    with pytest.raises(InvalidBundle, match="gives float16; float32 is needed"):
        loaded_model.load(tmp_path / "b", CPU)


@pytest.mark.parametrize("name", ["features.rgb.onnx", "notes.txt"])
def test_loading_hashes_graphs_and_all_that_lies_beside_them(tmp_path: Path, name: str) -> None:
    files = {"features.rgb.onnx": graphs.brightness_scores(), "notes.txt": b"trained on a Friday"}
    bundles.write(tmp_path / "b", tiny.manifest(), files)
    loaded_model.load(tmp_path / "b", CPU)
    path = tmp_path / "b" / name
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(InvalidBundle, match="changed or damaged"):
        loaded_model.load(tmp_path / "b", CPU)
