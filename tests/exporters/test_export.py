"""`tal export`: from a recipe to a bundle that serves, in both formats, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exporters import networks as building
from exporters import parity
from exporters.export import Format, export, plan
from exporters.parity import EagerSession, Twins
from exporters.recipe import Recipe
from models import bundle as bundles
from models.backbones import i3d
from service.errors import ExportFailed, InvalidBundle, InvalidOptions, WeightsMismatch
from service.runtime import loaded_model
from service.runtime.onnx_session import OnnxOptions
from service.runtime.session import to_numpy
from tests.support import videos

ROOT = Path(__file__).parents[2]
TINY_RGB = {"name": "rgb", "network": "i3d", "preset": "compact-rgb", "options": {"width": 0.0625, "size_px": 32}}
TINY_FLOW = {"name": "flow", "network": "tsn", "preset": "compact-flow", "options": {"width": 0.0625, "size_px": 32}}
TINY_DETECTOR = {
    "network": "actionformer",
    "preset": "compact",
    "options": {"channels": 16, "neck_channels": 16, "head_channels": 16, "windows": [9, 9]},
}
PUBLISHED = {"network": "actionformer", "layout": "official", "config": {}, "weights": "x.pth"}
GROUPING = {"threshold": {"kind": "absolute", "values": [0.2]}, "support": "mean"}


def described(**changes: Any) -> dict[str, Any]:
    return {
        "name": "tiny",
        "licence": "Apache-2.0",
        "provenance": "made by the tests",
        "labels": ["jump", "throw", "run"],
        "streams": [TINY_RGB],
        "grid": {"stride_frames": 4},
        "detector": TINY_DETECTOR,
        **changes,
    }


def recipe(**changes: Any) -> Recipe:
    return Recipe.model_validate_json(json.dumps(described(**changes)))


def tal(*arguments: object, torch_free: bool = False, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a user types it; `torch_free` as where torch is not installed."""
    block = "import sys; sys.modules['torch'] = None; " if torch_free else ""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{block}from service.cli import main; main()", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def video(folder: Path) -> Path:
    def moving(t: float) -> np.ndarray:
        bright = np.zeros((48, 64, 1), np.uint8)
        bright[10:30, int(40 * t) % 60 :] = 200
        return bright

    return videos.write(folder / "video.mp4", moving, duration_s=4)


@pytest.fixture(scope="module")
def two_streams(folder: Path, video: Path) -> dict[Format, Path]:
    """The same recipe in both formats, through the command, held against the networks on a video too."""
    path = folder / "recipe.json"
    path.write_text(json.dumps(described(streams=[TINY_RGB, TINY_FLOW])))
    made: dict[Format, Path] = {}
    for form in ("onnx", "torchscript"):
        done = tal("export", path, "--out", folder / form, "--format", form, "--sample", video)
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""
        made[form] = folder / form
    return made


def segments(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["segments"]
    return found


def detect(bundle: Path, video: Path, **environment: Any) -> subprocess.CompletedProcess[str]:
    return tal("detect", video, "--bundle", bundle, "--format", "json", "--min-score", 0, "--top-k", 20, **environment)


def test_an_exported_bundle_serves_without_torch(two_streams: dict[Format, Path], video: Path) -> None:
    found = segments(detect(two_streams["onnx"], video, torch_free=True))
    assert len(found) == 20
    assert {segment["label"] for segment in found} <= {"jump", "throw", "run"}
    assert all(0 <= segment["start_s"] < segment["end_s"] <= 4.001 for segment in found)


def test_both_formats_give_the_same_segments(two_streams: dict[Format, Path], video: Path) -> None:
    digest = bundles.read(two_streams["torchscript"]).sha256
    allowed = {"TAL_ALLOW_TORCH_BUNDLES": "1", "TAL_TRUSTED_TORCH_BUNDLES": digest}
    onnx, script = (
        segments(detect(two_streams["onnx"], video)),
        segments(detect(two_streams["torchscript"], video, **allowed)),
    )
    assert [segment["label"] for segment in onnx] == [segment["label"] for segment in script]
    for key in ("start_s", "end_s", "score"):
        np.testing.assert_allclose([s[key] for s in onnx], [s[key] for s in script], atol=1e-3)


def test_a_torchscript_bundle_runs_only_where_it_is_allowed(two_streams: dict[Format, Path], video: Path) -> None:
    done = detect(two_streams["torchscript"], video)
    assert done.returncode == 2
    assert "TAL_ALLOW_TORCH_BUNDLES" in done.stderr


def test_the_manifest_tells_what_the_networks_are(two_streams: dict[Format, Path]) -> None:
    manifest = bundles.read(two_streams["onnx"]).manifest
    rgb, flow = manifest.streams
    assert (rgb.clip_frames, rgb.crop_px, rgb.resize.size_px, rgb.input.dtype) == (16, (32, 32), 37, "uint8")
    assert (flow.kind, flow.clip_frames, flow.flow.clip_px if flow.flow else None) == ("flow", 5, 20.0)
    assert manifest.grid.offset_frames == 8
    assert manifest.windowing is not None
    assert (manifest.windowing.mode, manifest.windowing.multiple_of, manifest.windowing.margin) == ("whole", 2, 2)
    assert manifest.provenance.endswith("(random weights: i3d, tsn, actionformer)")
    evaluation = manifest.postprocessing.evaluation
    assert evaluation is not None
    assert evaluation.nms is not None
    assert (evaluation.nms.sigma, evaluation.nms.max_kept, evaluation.top_k_per_group) == (0.5, 200, 2000)


def test_the_gap_stands_in_the_manifest(two_streams: dict[Format, Path]) -> None:
    for made in two_streams.values():
        parity_told = bundles.read(made).manifest.parity
        tensors = {name: gap for name, gap in parity_told.items() if not name.startswith("segments")}
        assert set(tensors) == {
            *("features.rgb.features", "features.flow.features"),
            *("detector.spans", "detector.scores", "detector.groups"),
        }
        assert all(gap < 2e-5 for gap in tensors.values())
        assert parity_told["segments_compared"] > 200
        assert parity_told["segments_s"] < 1e-3


def test_a_detector_joins_the_features_of_another_bundle(
    two_streams: dict[Format, Path], video: Path, tmp_path: Path
) -> None:
    document = described(features_of=str(two_streams["onnx"]), name="joined", provenance="joined by the tests")
    del document["streams"], document["grid"]
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(document))
    done = tal("export", path, "--out", tmp_path / "joined", "--sample", video)
    assert done.returncode == 0, done.stderr
    theirs, ours = bundles.read(two_streams["onnx"]), bundles.read(tmp_path / "joined")
    assert (ours.manifest.streams, ours.manifest.grid) == (theirs.manifest.streams, theirs.manifest.grid)
    for stream in ours.manifest.streams:
        assert ours.read_file(stream.graph) == theirs.read_file(stream.graph)
    assert "(random weights: actionformer); features as tiny 1.0.0 makes them: made by" in ours.manifest.provenance
    assert set(ours.manifest.parity) >= {"detector.spans", "segments_compared"}
    assert segments(detect(tmp_path / "joined", video)) == segments(detect(two_streams["onnx"], video))


def test_features_of_a_bundle_that_runs_code_are_not_taken(two_streams: dict[Format, Path], tmp_path: Path) -> None:
    asked = recipe(features_of=str(two_streams["torchscript"]), streams=None, grid=None)
    with pytest.raises(InvalidOptions, match=r"graph 'features.rgb.pt' is none of ONNX"):
        plan(asked, tmp_path, "onnx")


def test_features_of_no_bundle_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidBundle, match="no such folder"):
        export(recipe(features_of="nowhere", streams=None, grid=None), tmp_path / "out", origin=tmp_path)


def test_models_of_our_own_are_found_by_name(folder: Path, video: Path) -> None:
    path = folder / "named.json"
    path.write_text(json.dumps(described(name="named-tiny")))
    home = folder / "home"
    done = tal("export", path, "--format", "torchscript", TAL_HOME=str(home))
    assert done.returncode == 0, done.stderr
    told = dict(re.findall(r"(TAL_\w+)=(\w+)", done.stderr))
    assert set(told) == {"TAL_ALLOW_TORCH_BUNDLES", "TAL_TRUSTED_TORCH_BUNDLES"}
    done = tal("detect", video, "--bundle", "named-tiny", "--format", "json", TAL_HOME=str(home), **told)
    assert done.returncode == 0, done.stderr


def test_without_torch_the_command_says_what_to_install(folder: Path) -> None:
    done = tal("export", folder / "recipe.json", torch_free=True)
    assert done.returncode == 2
    assert "tal export needs torch, which is not installed: pip install '.[train]'" in done.stderr


def test_a_backbone_alone_becomes_a_bundle_of_class_scores(folder: Path, video: Path) -> None:
    wanted = recipe(
        detector=None,
        streams=[{**TINY_RGB, "options": {**TINY_RGB["options"], "clip_frames": 8}}],
        postprocessing={"use": {"grouping": GROUPING}},
    )
    made = export(wanted, folder / "scores", origin=folder, samples=[video])
    assert made.manifest.output_kind == "activations"
    assert made.manifest.parity["segments_compared"] > 0
    assert all(s["score"] > 0 for s in segments(detect(folder / "scores", video, torch_free=True)))


@cache
def tiny_i3d() -> i3d.I3d:
    torch.manual_seed(5)
    return i3d.I3d(i3d.I3dConfig("rgb", 400, 0.0625, size_px=32)).eval()


def test_weights_are_taken_from_the_file_that_the_recipe_names(folder: Path) -> None:
    network = tiny_i3d()
    torch.save({"state_dict": network.state_dict()}, folder / "i3d.pth")
    wanted = recipe(streams=[{**TINY_RGB, "weights": "i3d.pth"}])
    built = building.backbone(wanted.streams[0], folder)
    clips = torch.randint(0, 256, (1, 16, 32, 32, 3), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(built(clips).features, network(clips).features)
    made = export(wanted, folder / "weighted", origin=folder, form="torchscript")
    assert made.manifest.provenance.endswith("(random weights: actionformer)")


def test_weights_of_data_parallel_training_fit_too(folder: Path) -> None:
    wrapped = {f"module.{name}": value for name, value in tiny_i3d().state_dict().items()}
    torch.save({"state_dict": wrapped}, folder / "wrapped.pth")
    built = building.backbone(recipe(streams=[{**TINY_RGB, "weights": "wrapped.pth"}]).streams[0], folder)
    for name, value in tiny_i3d().state_dict().items():
        assert torch.equal(built.state_dict()[name], value)


def test_published_weights_take_part_by_layout(folder: Path) -> None:
    from exporters import published
    from tests.support import golden

    known = golden.read("actionformer/local")
    torch.save({"state_dict": {f"module.{k}": v for k, v in known.state.items()}}, folder / "published.pth")
    detector = {
        "network": "actionformer",
        "layout": "official",
        "config": known.config["model"],
        "weights": "published.pth",
        "rules": "thumos",
    }
    stream = {**TINY_RGB, "options": {**TINY_RGB["options"], "width": 24 / 1024}}
    wanted = recipe(labels=list("abcde"), streams=[stream], detector=detector)
    made = export(wanted, folder / "published", origin=folder)
    assert made.manifest.provenance.endswith("(random weights: i3d)")
    assert made.manifest.parity["segments_compared"] > 0
    network = published.load("actionformer", "official", known.state, known.config["model"])
    from exporters.export import open_session

    session = open_session(made.read_file("detector.onnx"), "onnx", "detector")
    features = torch.from_numpy(known.inputs["eval/1/feats"])[None]
    mask = torch.ones(1, features.shape[2], dtype=torch.bool)
    with torch.inference_mode():
        expected = network.decode(network(features, mask))
    found = session.run({"features": features.numpy(), "mask": mask.numpy()})
    np.testing.assert_allclose(to_numpy(found["spans"]), expected.spans, atol=1e-3)
    np.testing.assert_allclose(to_numpy(found["scores"]), expected.scores, atol=1e-5)


def test_features_may_be_the_sample(folder: Path) -> None:
    np.save(folder / "sample.npy", np.random.default_rng(0).standard_normal((40, 64)).astype(np.float32))
    export(recipe(), folder / "sampled", origin=folder, form="torchscript", samples=[folder / "sample.npy"])
    np.save(folder / "narrow.npy", np.zeros((40, 63)))
    with pytest.raises(InvalidOptions, match=r"features have shape \(40, 63\); \(T, 64\) is needed"):
        export(recipe(), folder / "refused", origin=folder, samples=[folder / "narrow.npy"])
    for name, content in (("empty.npy", b""), ("text.npy", b"text"), ("nan.npy", None)):
        if content is None:
            np.save(folder / name, np.full((40, 64), np.nan, np.float32))
        else:
            (folder / name).write_bytes(content)
        with pytest.raises(InvalidOptions, match=rf"{name}: (no array of numbers|features hold NaN)"):
            export(recipe(), folder / "refused", origin=folder, samples=[folder / name])
    with pytest.raises(InvalidOptions, match=r"none\.mp4: no such file"):
        export(recipe(), folder / "refused", origin=folder, samples=[folder / "none.mp4"])
    assert not (folder / "refused").exists()


@pytest.mark.needs_assets
def test_real_features_and_a_real_video_give_the_same_segments(assets: Path, folder: Path) -> None:
    parts = [np.load(assets / "i3d_features" / f"women_long_jump_{kind}.npy") for kind in ("rgb", "flow")]
    length = min(map(len, parts))
    np.save(folder / "real.npy", np.concatenate([part[:length] for part in parts], axis=1))
    wide = {"options": {**TINY_RGB["options"], "width": 1.0, "clip_frames": 2}}
    streams = [{**TINY_RGB, **wide}, {**TINY_RGB, **wide, "name": "second"}]
    samples = [folder / "real.npy", assets / "videos" / "real" / "arm_wrestling.mp4"]
    for form in ("onnx", "torchscript"):
        made = export(recipe(streams=streams), folder / f"real-{form}", origin=folder, form=form, samples=samples)
        assert made.manifest.parity["segments_compared"] > 400


def twins(bundle: bundles.Bundle, exported: dict[str, Any], eager: dict[str, Any]) -> Twins:
    return Twins(*(loaded_model.join(bundle, sessions, OnnxOptions(device="cpu")) for sessions in (exported, eager)))


def test_a_bundle_whose_graphs_are_of_another_network_is_refused(two_streams: dict[Format, Path]) -> None:
    """Tensor parity would tell; segments must tell by themselves, too."""
    from exporters.export import open_session

    bundle = bundles.read(two_streams["onnx"])
    wanted = recipe(streams=[TINY_RGB, TINY_FLOW])
    graphs = plan(wanted, ROOT, "onnx").graphs
    eager = {name: EagerSession(graph) for name, graph in graphs.items()}
    exported = {name: open_session(bundle.read_file(name), "onnx", name) for name in bundle.manifest.graphs}
    compared, furthest_s = parity.segment_gap(twins(bundle, exported, eager), [])
    assert compared > 0
    assert furthest_s < 1e-3
    with torch.no_grad():
        graphs["detector.onnx"].module.get_parameter("network.classify.answer.conv.bias")[0] += 1
    with pytest.raises(ExportFailed, match=r"1 random snippets, preset use: '\w+' from .* is only in"):
        parity.segment_gap(twins(bundle, exported, eager), [])


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"streams": [{**TINY_RGB, "network": "c3d"}]}, InvalidOptions, "'c3d' is not known; accepted are i3d, tsn"),
        ({"streams": [{**TINY_RGB, "preset": "huge"}]}, InvalidOptions, "no preset 'huge'; accepted are rgb, flow"),
        ({"streams": [{**TINY_RGB, "options": {"depth": 3}}]}, InvalidOptions, "no option depth; accepted are kind"),
        ({"streams": [{**TINY_RGB, "options": {"width": -1}}]}, InvalidOptions, "width is -1"),
        ({"streams": [{**TINY_RGB, "flow": {"clip_px": 20}}]}, InvalidOptions, "i3d sees RGB"),
        ({"streams": [{**TINY_RGB, "weights": "none.pth"}]}, InvalidOptions, r"none\.pth: No such file"),
        ({"detector": {"network": "yolo"}}, InvalidOptions, "'yolo' is not known; accepted are actionformer"),
        ({"detector": {**TINY_DETECTOR, "rules": "mine"}}, InvalidOptions, "no rules 'mine'; accepted are thumos"),
        (
            {"detector": {**TINY_DETECTOR, "options": {"input_channels": [5]}}},
            InvalidOptions,
            "takes 5 feature channels, the streams give 64",
        ),
        ({"detector": {"network": "actionformer", "preset": "activitynet"}}, InvalidOptions, "labels has 3 names"),
        ({"detector": {**TINY_DETECTOR, "options": {"heads": 0}}}, InvalidOptions, "heads is 0"),
        ({"detector": {**TINY_DETECTOR, "options": {"channels": True}}}, InvalidOptions, "channels: Input should be"),
        ({"streams": [{**TINY_RGB, "options": {"num_classes": 10**13}}]}, InvalidOptions, "i3d: "),
        ({"streams": [TINY_RGB, TINY_RGB]}, InvalidBundle, "are not distinct"),
        ({"labels": ["a", "a"]}, InvalidBundle, "more than once"),
        ({"windowing": {"mode": "whole", "multiple_of": 3}}, InvalidOptions, "takes multiples of 2"),
        ({"windowing": {"mode": "sliding", "length": 15, "hop": 5}}, InvalidOptions, "windows of 15 steps"),
        ({"grid": {"stride_frames": 4, "tail": "cut"}}, InvalidBundle, "grid.tail"),
        ({"windowing": {"mode": "whole", "multiple_of": 4, "step": 1}}, InvalidBundle, "windowing.whole.step"),
    ],
)  # fmt: skip
def test_a_recipe_that_cannot_work_is_refused_before_anything_is_written(
    changes: dict[str, Any], error: type[Exception], told: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=told):
        export(recipe(**changes), tmp_path / "out", origin=tmp_path, form="torchscript")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_do_not_fit_are_told(folder: Path) -> None:
    torch.save(tiny_i3d().state_dict(), folder / "narrow.pth")
    wanted = recipe(streams=[{**TINY_RGB, "options": {"width": 0.125, "size_px": 32}, "weights": "narrow.pth"}])
    with pytest.raises(WeightsMismatch, match=r"expected \(8, 3, 7, 7, 7\), found \(4, 3, 7, 7, 7\)"):
        export(wanted, folder / "misfit", origin=folder)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "out", tmp_path / ("x" * 300)):
        with pytest.raises((InvalidOptions, InvalidBundle), match="cannot be written"):
            export(recipe(), out, origin=tmp_path, form="torchscript")


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(InvalidBundle, match="exists already"):
        export(recipe(), tmp_path / "out", origin=tmp_path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "recipe: Invalid JSON"),
        (json.dumps(described(model="x")), "model: unknown key"),
        (json.dumps(described(detector=None)), "postprocessing must say how class scores become segments"),
        (json.dumps(described(streams=[{**TINY_RGB, "layout": "official"}])), "layout and config go together"),
        (json.dumps({"name": "x"}), "licence: missing key"),
        (json.dumps(described(features_of="x")), "streams, grid, features_of given: features are made by streams and"),
        (json.dumps(described(grid=None)), "streams given: features are made by"),
        (json.dumps(described(streams=None, grid=None)), "neither streams nor features_of given"),
        (
            json.dumps(described(streams=None, grid=None, features_of="x", detector=None, postprocessing={})),
            "features_of gives features to a detector",
        ),
        (json.dumps(described(name="../evil")), "name: String should match pattern"),
        (json.dumps(described(streams=[{**TINY_RGB, "name": "a/b"}])), "streams.0.name: String should match"),
        (json.dumps(described(streams=[{**TINY_RGB, "weights": ""}])), "streams.0.weights"),
        (json.dumps(described(detector=PUBLISHED)), "rules names the preset that does"),
    ],
)
def test_a_recipe_that_is_none_is_told_by_key(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(text)
    done = tal("export", path, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert told in done.stderr
    assert "[invalid_options]" in done.stderr


def test_the_result_of_a_training_run_stands_in_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps({"mAP": {"0.3": 0.5, "0.7": 0.25}, "average": 0.375}))
    for metrics in ("result.json", {"average_map": 0.375, "map@0.3": 0.5, "map@0.7": 0.25}):
        draft = plan(recipe(metrics=metrics), tmp_path, "onnx").draft
        assert draft["metrics"] == {"average_map": 0.375, "map@0.3": 0.5, "map@0.7": 0.25}


@pytest.mark.parametrize(("content", "told"), [(None, "No such file"), ("{}", "no result.json"), ("x", "no result")])
def test_metrics_that_are_no_result_are_refused(content: str | None, told: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "result.json").write_text(content)
    with pytest.raises(InvalidOptions, match=told):
        plan(recipe(metrics="result.json"), tmp_path, "onnx")
