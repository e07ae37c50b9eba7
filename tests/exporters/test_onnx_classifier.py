"""Any ONNX classifier becomes a bundle; what the graph tells is read from it, what it cannot tell is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from exporters import onnx_classifier
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
    stream = wrap(tmp_path / "b", graphs.brightness_scores(layout, dtype=dtype)).manifest.streams[0]
    assert (stream.input.layout, stream.input.dtype) == (layout, dtype)
    assert stream.clip_frames == (4 if "T" in layout else 1)
    assert stream.input.scale == pytest.approx(1 if dtype == "uint8" else 1 / 255)


def test_probabilities_stay_and_logits_pass_a_softmax(tmp_path: Path) -> None:
    kept = wrap(tmp_path / "a", graphs.brightness_scores())
    assert kept.manifest.streams[0].outputs.score_activation == "none"
    signature = onnx_classifier.read_signature(SIGNATURE)
    mapped = wrap(tmp_path / "b", graphs.counting_stream(), signature=signature)
    assert mapped.manifest.streams[0].outputs.score_activation == "softmax"


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
        wrap(tmp_path / "b", graphs.counting_stream())
    signature = onnx_classifier.read_signature(SIGNATURE)
    stream = wrap(tmp_path / "b", graphs.counting_stream(), signature=signature).manifest.streams[0]
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
        ({"labels": ("a", "b", "c")}, InvalidBundle, "labels has 3 names; of the graph's outputs"),
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


def test_what_is_no_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidBundle, match="cannot load it"):
        wrap(tmp_path / "b", b"GIF89a")


def test_an_imported_bundle_verifies(tmp_path: Path) -> None:
    wrap(tmp_path / "b", graphs.brightness_scores())
    bundles.read(tmp_path / "b").verify()


def test_labels_are_lines_or_a_json_list() -> None:
    assert onnx_classifier.read_labels("a\nb c\n\n") == ("a", "b c")
    assert onnx_classifier.read_labels('["a", "b"]') == ("a", "b")
    with pytest.raises(InvalidOptions, match="line 2 is empty"):
        onnx_classifier.read_labels("a\n\nb\n")
    with pytest.raises(InvalidOptions, match="list of strings"):
        onnx_classifier.read_labels("[1, 2]")


@pytest.mark.parametrize("text", ['{"inputs": {}}', '{"inputs": {}, "outputs": {}}', "[]"])
def test_a_signature_that_pairs_nothing_is_refused(text: str) -> None:
    with pytest.raises(InvalidOptions, match="signature"):
        onnx_classifier.read_signature(text)


@pytest.mark.parametrize("text", ["", "{", "[1,"])
def test_a_signature_that_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(InvalidOptions, match="not JSON"):
        onnx_classifier.read_signature(text)
