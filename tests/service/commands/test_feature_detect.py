"""`tal detect --features`: files of features in, the segments that their videos give out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from service import cli
from service.commands.feature_detect import FeatureOptions, localize_file
from service.errors import InvalidOptions
from service.localization import DetectOptions, Localization
from service.pipeline.pipeline import localize
from service.runtime import loaded_model
from service.runtime.loaded_model import LoadedModel
from service.runtime.onnx_session import OnnxOptions
from tests.support import bundles, videos
from training import extract

CPU = OnnxOptions(device="cpu")
BRIGHT = ((0.4, 0.8), (1.2, 1.6))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("features")
    videos.write(root / "video.mp4", videos.flashes(*BRIGHT), duration_s=2)
    for kind in ("candidates", "activations"):
        bundle = getattr(bundles, kind)(root / "home" / "models" / kind).folder
        plan = extract.ExtractionPlan(bundle=bundle, out=root / kind, onnx=CPU)
        assert extract.extract([root / "video.mp4"], plan).made == ("video",)
    return root


def model(folder: Path, kind: str) -> LoadedModel:
    return loaded_model.load(folder / "home" / "models" / kind, CPU)


def detect(folder: Path, path: Path, kind: str = "candidates", **how: Any) -> Localization:
    return localize_file(path, model(folder, kind), DetectOptions(), "use", FeatureOptions(**how))


@pytest.mark.parametrize("kind", ["candidates", "activations"])
def test_features_of_a_video_give_the_segments_of_the_video(folder: Path, kind: str) -> None:
    expected = localize(folder / "video.mp4", model(folder, kind))
    found = detect(folder, folder / kind / "video.npz", kind)
    assert found.segments == expected.segments
    assert len(found.segments) >= 2
    assert (found.video.duration_s, found.video.num_frames) == (2.0, 50)
    assert found.video_name == "video.npz"
    assert found.details["features"] == "file"
    assert "decoder" not in found.details


def rows(folder: Path) -> np.ndarray:
    with np.load(folder / "candidates" / "video.npz") as stored:
        return np.asarray(stored["values"])


def test_features_of_others_are_taken_as_the_bundle_makes_its_own_unless_it_is_said(
    folder: Path, tmp_path: Path
) -> None:
    expected = [
        (round(s.start_s, 3), round(s.end_s, 3), s.label)
        for s in detect(folder, folder / "candidates" / "video.npz").segments
    ]
    for name, values, how in (
        ("rows.npy", rows(folder), {}),
        ("columns.npy", rows(folder).T, {"layout": "ct"}),
    ):
        np.save(tmp_path / name, values)
        found = detect(folder, tmp_path / name, fps=25.0, **how)
        assert [(round(s.start_s, 3), round(s.end_s, 3), s.label) for s in found.segments] == expected
        assert found.warnings == ()
    stretched = detect(folder, tmp_path / "rows.npy", fps=25.0, stride_frames=4.0, clip_frames=8)
    assert [round(s.start_s, 2) for s in stretched.segments] == [round(2 * start, 2) for start, _, _ in expected]
    assert stretched.warnings == (
        "features: stride 4.0 given, 2 expected",
        "features: offset 4.0 given, 2.0 expected",
        "features: clip frames 8 given, 4 expected",
    )


def test_arrays_of_an_archive_stand_side_by_side(folder: Path, tmp_path: Path) -> None:
    values = rows(folder)
    np.savez(tmp_path / "two.npz", rgb=values[:, :1], flow=values[:, 1:], short=values[:5, 1:])
    np.save(tmp_path / "one.npy", values)
    found = detect(folder, tmp_path / "two.npz", fps=25.0, arrays="rgb,flow")
    assert found.segments == detect(folder, tmp_path / "one.npy", fps=25.0).segments
    with pytest.raises(InvalidOptions, match="arrays rgb,short have 5, 24 rows"):
        detect(folder, tmp_path / "two.npz", fps=25.0, arrays="rgb,short")
    for arrays in ("rgb,", "", ","):
        with pytest.raises(InvalidOptions, match=f"--array is '{arrays}'; a name is needed"):
            detect(folder, tmp_path / "two.npz", fps=25.0, arrays=arrays)


def test_what_cannot_be_detected_in_is_told(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "narrow.npy", rows(folder)[:, :2])
    np.save(tmp_path / "rows.npy", rows(folder))
    with pytest.raises(InvalidOptions, match="the frame rate is None; give fps"):
        detect(folder, tmp_path / "rows.npy")
    with pytest.raises(InvalidOptions, match=r"none\.npy: no such file"):
        detect(folder, tmp_path / "none.npy")
    with pytest.raises(InvalidOptions, match=r": a folder; a file of features is needed"):
        detect(folder, tmp_path)
    with pytest.raises(InvalidOptions, match="clip_frames is 0; 1 or more"):
        detect(folder, tmp_path / "rows.npy", fps=25.0, clip_frames=0)
    with pytest.raises(
        InvalidOptions, match=r"features\.json beside it says how it was made; leave out --fps, --array"
    ):
        detect(folder, folder / "candidates" / "video.npz", fps=25.0, arrays="values")
    with pytest.raises(InvalidOptions, match=r"do not fit the model: .*clip frames 4 given, 2 expected"):
        detect(folder, folder / "candidates" / "video.npz", "activations")
    with pytest.raises(InvalidOptions, match="start and end say which part of a video"):
        localize_file(
            folder / "candidates" / "video.npz",
            model(folder, "candidates"),
            DetectOptions(start_s=1.0),
            "use",
            FeatureOptions(),
        )
    bundles.classifier(tmp_path / "classifier")
    classifier = loaded_model.load(tmp_path / "classifier", CPU)
    with pytest.raises(InvalidOptions, match="has no detector, so it sees videos only"):
        localize_file(tmp_path / "rows.npy", classifier, DetectOptions(), "use", FeatureOptions(fps=25.0))


def tal(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> Any:
    monkeypatch.setenv("TAL_HOME", str(folder / "home"))
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_the_command_prints_them_like_those_of_videos(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "candidates" / "video.npz"
    told = [
        tal(folder, monkeypatch, "detect", *what, "-b", "candidates", "-f", "activitynet", "--device", "cpu")
        for what in (("--features", path), (folder / "video.mp4",))
    ]
    assert [one.exit_code for one in told] == [0, 0]
    found, expected = (json.loads(one.stdout)["results"]["video"] for one in told)
    assert found == expected


def test_the_command_refuses_what_makes_no_sense_and_goes_on_after_a_bad_file(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "candidates" / "video.npz"
    refused = tal(folder, monkeypatch, "detect", folder / "video.mp4", "-b", "candidates", "--stride-frames", "4")
    assert "--stride-frames: for files of features" in str(refused.exception)
    remote = tal(folder, monkeypatch, "detect", "--features", path, "--server", "http://127.0.0.1:9")
    assert "--features is for models that run here" in str(remote.exception)
    (tmp_path / "bad.npy").write_bytes(b"none")
    both = tal(folder, monkeypatch, "detect", "--features", tmp_path / "bad.npy", path, "-b", "candidates", "-f", "csv")
    assert both.exit_code == 1
    assert "bad.npy: cannot be read as features" in both.stderr
    assert both.stdout.count("video.npz") >= 2
