"""Any ONNX classifier becomes a bundle; what the graph tells is read from it, what it cannot tell is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from exporters import onnx_classifier, side_files
from exporters.onnx_classifier import ClassifierImport
from models import bundle as bundles
from models.bundle import Bundle
from service.errors import InvalidBundle, InvalidOptions
from service.pipeline.pipeline import localize
from service.runtime import loaded_model
from service.runtime.onnx_session import OnnxOptions
from tests.support import graphs, videos

LABELS = ("bright", "dark")


def wrap(folder: Path, graph: bytes, **fields) -> Bundle:
    chosen = {"name": "tiny", "labels": LABELS, "fps": 10.0, "window_s": 0.4, "size_px": 16, **fields}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    return onnx_classifier.wrap(graph, ClassifierImport(**chosen), folder)


def test_a_clip_classifier_localizes_at_once(tmp_path: Path) -> None:
    wrap(tmp_path / "b", graphs.brightness_scores("NCTHW", dtype="float32"))
    video = videos.write(tmp_path / "v.mp4", videos.flashes((2, 4)), duration_s=6)
    result = localize(video, loaded_model.load(tmp_path / "b", OnnxOptions(device="cpu")))
    best = next(s for s in result.segments if s.label == "bright")
    assert (best.start_s, best.end_s) == pytest.approx((2, 4), abs=0.25)


@pytest.mark.parametrize("layout", ["NTHWC", "NCTHW", "NTCHW", "NHWC", "NCHW"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_layout_and_type_are_read_from_the_graph(tmp_path: Path, layout: str, dtype: str) -> None:
    window_s = 0.4 if "T" in layout else None
    made = wrap(tmp_path / "b", graphs.brightness_scores(layout, dtype=dtype), window_s=window_s)
    stream = made.manifest.streams[0]
    assert (stream.input.layout, stream.input.dtype) == (layout, dtype)
    assert stream.clip_frames == (4 if "T" in layout else 1)
    assert stream.input.scale == pytest.approx(1 if dtype == "uint8" else 1 / 255)


def activation(folder: Path, graph: bytes, **fields) -> str:
    return wrap(folder, graph, **fields).manifest.streams[0].outputs.score_activation


def test_probabilities_stay_and_logits_become_some(tmp_path: Path) -> None:
    assert activation(tmp_path / "a", graphs.brightness_scores()) == "none"
    assert activation(tmp_path / "b", graphs.linear_scores([[4, -1], [-3, 2]])) == "softmax"
    assert activation(tmp_path / "c", graphs.linear_scores([[5, -2]]), labels=("bright",)) == "sigmoid"
    # Several labels at once: each a probability of its own, so nothing sums to one.
    assert activation(tmp_path / "d", graphs.linear_scores([[0.9, 0.05], [0.8, 0.1]])) == "none"


SIGNATURE = json.dumps(
    {
        "inputs": {
            "image": {"name": "image", "shape": [1, 1, 8, 8, 3], "dtype": "float32"},
            "memory": {"name": "memory_in", "shape": [1, 1], "dtype": "float32"},
        },
        "outputs": {"logits": "logits", "memory": "memory_out"},
    }
)


def test_a_streaming_classifier_needs_its_signature(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptions, match=r"2 inputs .*signature"):
        wrap(tmp_path / "b", graphs.counting_stream(), size_px=None)
    signature = side_files.read_signature(SIGNATURE)
    stream = wrap(tmp_path / "b", graphs.counting_stream(), signature=signature, size_px=None).manifest.streams[0]
    assert stream.state is not None
    assert [tensor.input for tensor in stream.state.tensors] == ["memory_in"]
    assert (stream.clip_frames, stream.state.step_frames) == (4, 1)


def test_windows_steps_and_groups_go_into_the_manifest(tmp_path: Path) -> None:
    bundle = wrap(
        tmp_path / "b",
        graphs.brightness_scores(),
        fps=8.0,
        window_s=2.0,
        step_s=0.5,
        label_groups=(("any", ("bright", "dark")),),
    )
    grid = bundle.manifest.grid
    assert (bundle.manifest.streams[0].clip_frames, grid.stride_frames, grid.offset_frames) == (16, 4, 8)
    assert bundle.manifest.segment_labels == ("any",)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"fps": None}, InvalidOptions, "fps: the graph does not fix the number of frames"),
        ({"size_px": None}, InvalidOptions, "leaves the frame size open; say size_px"),
        ({"labels": ("a", "b", "c")}, InvalidBundle, "labels has 3 names; 0 could hold their scores of the graph's"),
        ({"scores": "logits"}, InvalidBundle, "output 'logits' is not one of the graph's outputs"),
        ({"fps": 0.0}, InvalidOptions, "fps is 0.0; a number above 0 is needed"),
        ({"fps": float("nan")}, InvalidOptions, "fps is nan"),
        ({"fps": 5000.0}, InvalidOptions, "at most 1000 frames a second"),
        ({"window_s": -1.0}, InvalidOptions, "window_s is -1.0"),
        ({"step_s": 0.0}, InvalidOptions, "step_s is 0.0"),
        ({"step_s": 2.0}, InvalidOptions, "step_s 2 leaves gaps: a window covers 0.4 s"),
        ({"threshold": 1.5}, InvalidOptions, "threshold is 1.5; it lies between 0 and 1"),
        ({"mean": (0.5, 0.5)}, InvalidOptions, "one number or three are needed"),
        ({"mean": (0.5,)}, InvalidOptions, "takes bytes as they are; scale, mean and std do not apply"),
        ({"layout": "NCHW"}, InvalidOptions, "layout NCHW has 4 axes"),
        ({"layout": "nthwc"}, InvalidOptions, "layout is 'nthwc'; accepted are"),
        ({"name": "Bad Name"}, InvalidBundle, "name: String should match pattern"),
        ({"label_groups": (("x", ("cat",)),)}, InvalidBundle, "'cat', which labels does not hold"),
    ],
)
def test_what_cannot_work_is_refused_and_leaves_nothing(
    tmp_path: Path, fields: dict, error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        wrap(tmp_path / "b", graphs.brightness_scores(), **fields)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (graphs.scores_of_shape([2]), "0 could hold their scores"),
        (graphs.scores_of_shape([1, 2]), r"has shape \(1, 2\) for 2 clip"),
        (graphs.scores_of_shape([1, 3, 2]), "0 could hold their scores"),
    ],
)
def test_scores_of_another_shape_than_clips_by_labels_are_refused(tmp_path: Path, graph: bytes, message: str) -> None:
    with pytest.raises(InvalidBundle, match=message):
        wrap(tmp_path / "b", graph)


def test_a_fixed_clip_length_takes_its_window_or_its_rate_but_not_both(tmp_path: Path) -> None:
    graph = graphs.brightness_scores(frames=8)
    by_window = wrap(tmp_path / "a", graph, fps=None, window_s=2.0).manifest
    by_rate = wrap(tmp_path / "b", graph, fps=4.0, window_s=None).manifest
    assert by_window.grid.fps == by_rate.grid.fps == 4.0
    with pytest.raises(InvalidOptions, match=r"the graph takes 8 frames, which at fps 25 are 0.32 s, not window_s 2"):
        wrap(tmp_path / "c", graph, fps=25.0, window_s=2.0)


def test_an_image_classifier_looks_at_moments_without_gaps(tmp_path: Path) -> None:
    bundle = wrap(tmp_path / "b", graphs.brightness_scores("NCHW"), window_s=None, fps=None, step_s=0.25)
    assert (bundle.manifest.grid.fps, bundle.manifest.grid.stride_frames) == (4.0, 1)
    video = videos.write(tmp_path / "v.mp4", videos.flashes((2, 4)), duration_s=6)
    result = localize(video, loaded_model.load(tmp_path / "b", OnnxOptions(device="cpu")))
    best = next(s for s in result.segments if s.label == "bright")
    assert (best.start_s, best.end_s) == pytest.approx((2, 4), abs=0.26)


def test_evaluation_asks_for_more_and_lower_segments_than_use(tmp_path: Path) -> None:
    wrap(tmp_path / "b", graphs.brightness_scores())
    ramp = videos.write(tmp_path / "v.mp4", lambda t: round(40 * t), duration_s=6)
    model = loaded_model.load(tmp_path / "b", OnnxOptions(device="cpu"))
    use, evaluation = (localize(ramp, model, preset=preset).segments for preset in ("use", "evaluation"))
    assert len(evaluation) > 3 * len(use)


def test_what_is_no_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidBundle, match="cannot load it"):
        wrap(tmp_path / "b", b"GIF89a")


def test_an_imported_bundle_verifies(tmp_path: Path) -> None:
    wrap(tmp_path / "b", graphs.brightness_scores())
    bundles.read(tmp_path / "b").verify()


def test_labels_are_lines_or_a_json_list() -> None:
    assert side_files.read_labels("a\nb c\n\n") == ("a", "b c")
    assert side_files.read_labels('["a", "b"]') == ("a", "b")
    with pytest.raises(InvalidOptions, match="line 2 is empty"):
        side_files.read_labels("a\n\nb\n")
    with pytest.raises(InvalidOptions, match="list of strings"):
        side_files.read_labels("[1, 2]")


@pytest.mark.parametrize(
    "text",
    [
        '{"inputs": {}}',
        '{"inputs": {}, "outputs": {}}',
        "[]",
        '{"inputs": [], "outputs": null}',
        '{"inputs": {"image": {}}, "outputs": {"scores": "s"}}',
        '{"inputs": {"image": {"name": "i", "shape": [1, null]}}, "outputs": {"scores": "s"}}',
        '{"inputs": {"image": {"name": "i", "shape": [1], "dtype": "bogus"}}, "outputs": {"scores": "s"}}',
        '{"inputs": {"image": {"name": "i", "shape": [1]}}, "outputs": {"scores": 3}}',
    ],
)
def test_a_signature_that_pairs_nothing_is_refused(text: str) -> None:
    with pytest.raises(InvalidOptions, match="signature"):
        side_files.read_signature(text)


@pytest.mark.parametrize("text", ["", "{", "[1,"])
def test_a_signature_that_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(InvalidOptions, match="not JSON"):
        side_files.read_signature(text)
