"""CMCS from published weights to a bundle: two files of weights, one graph; and the real ones on real features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exporters import parity, published
from exporters.export import EXPORTERS, export, open_session
from exporters.exportable import from_detector
from exporters.recipe import Recipe
from models import bundle as bundles
from models.bundle import Bundle
from models.detectors.cmcs import Cmcs
from models.geometry import tiou
from service.commands.feature_detect import FeatureOptions, localize_file
from service.localization import DetectOptions, Segment
from service.pipeline.pipeline import Preset
from service.runtime import loaded_model
from service.runtime.onnx_session import OnnxOptions
from tests.support import bundles as tiny
from tests.support import golden, graphs

THUMOS = (
    *("BaseballPitch", "BasketballDunk", "Billiards", "CleanAndJerk", "CliffDiving", "CricketBowling", "CricketShot"),
    *("Diving", "FrisbeeCatch", "GolfSwing", "HammerThrow", "HighJump", "JavelinThrow", "LongJump", "PoleVault"),
    *("Shotput", "SoccerPenalty", "TennisSwing", "ThrowDiscus", "VolleyballSpiking"),
)
TRUTH_S = (5.82, 16.20)
STACKS: dict[str, Any] = {"stride_frames": 24.0, "offset_frames": 0.0, "clip_frames": 24, "fps": 25.0}


def front(folder: Path, channels: int) -> Bundle:
    """Some bundle whose streams give so many features, every 16 frames of 25 a second."""
    described = tiny.manifest(
        streams=[tiny.stream(outputs={"features": "features"}, clip_frames=16)],
        grid={"fps": 25.0, "stride_frames": 16, "offset_frames": 0, "tail": "drop"},
        windowing={"mode": "whole"},
        detector={"graph": "detector.onnx", "video_scores": "video_scores"},
        postprocessing={"use": {"grouping": tiny.GROUPING}},
    )
    files = {
        "features.rgb.onnx": graphs.brightness_features(channels=channels),
        "detector.onnx": graphs.activation_detector(),
    }
    return bundles.write(folder, described, files)


def exported(folder: Path, detector: dict[str, Any], labels: list[str], channels: int, **changes: Any) -> Bundle:
    front(folder / "front", channels)
    document = {
        "name": "cmcs",
        "licence": "unknown",
        "provenance": "published weights",
        "labels": labels,
        "features_of": "front",
        "detector": {"network": "cmcs", **detector},
        **changes,
    }
    return export(Recipe.model_validate_json(json.dumps(document)), folder / "bundle", origin=folder)


def detected(bundle: Bundle, path: Path, preset: Preset = "use", **how: Any) -> tuple[Segment, ...]:
    model = loaded_model.load(bundle.folder, OnnxOptions(device="cpu"))
    return localize_file(path, model, DetectOptions(min_score=0.0), preset, FeatureOptions(**how)).segments


def test_one_graph_holds_the_networks_of_two_files(tmp_path: Path) -> None:
    known = golden.read("cmcs/random_i3d")
    for modality in ("rgb", "flow"):
        state = {k.removeprefix(f"{modality}/"): v for k, v in known.state.items() if k.startswith(f"{modality}/")}
        torch.save(state, tmp_path / f"{modality}.pth")
    labels = [f"class {number}" for number in range(known.config["action_class_num"])]
    detector = {
        "layout": "official-late-fusion",
        "config": {"model_params": known.config["model_params"]},
        "weights": {"rgb": "rgb.pth", "flow": "flow.pth"},
        "rules": "thumos",
    }
    channels = 2 * known.config["feature_dim"]
    bundle = exported(tmp_path, detector, labels, channels)
    assert bundle.manifest.output_kind == "activations"
    assert bundle.manifest.parity["detector.activations"] < 2e-5
    assert bundle.manifest.parity["segments_compared"] > 0
    values = np.concatenate([known.inputs[f"video/0/{kind}"][0] for kind in ("rgb", "flow")], axis=1)
    np.save(tmp_path / "video.npy", values)
    raw, useful = detected(bundle, tmp_path / "video.npy", "evaluation"), detected(bundle, tmp_path / "video.npy")
    assert len(raw) == len(useful) > 5
    assert all(0 <= segment.score <= 1 for segment in useful)
    np.testing.assert_allclose([max(s.score, 0) / 1.25 for s in raw], [s.score for s in useful])
    assert {segment.label for segment in raw} <= set(labels)


needs_assets = pytest.mark.needs_assets


def features(assets: Path, modality: str) -> torch.Tensor:
    """(1, C, T) of the clip whose truth is known."""
    with np.load(assets / "i3d_features" / "v_GGSY1Qvo990_reference.npz", allow_pickle=False) as stored:
        return torch.from_numpy(stored[f"raft_24_24_25_{modality}"].astype(np.float32)).T[None]


def labels_of(assets: Path, system: str) -> list[str]:
    names: list[str] = json.loads((assets / "cmcs" / "activitynet13_class_names.json").read_text())
    return list(THUMOS) if system.startswith("thumos") else names


def trained(assets: Path, system: str, path: str) -> Cmcs:
    config = json.loads((assets / "cmcs" / f"trained-{system}.json").read_text())
    made = published.load("cmcs", "official", published.read(assets / "cmcs" / path), config)
    assert isinstance(made, Cmcs)
    return made


@needs_assets
def test_real_weights_on_real_features_give_the_known_numbers_and_so_does_their_graph(assets: Path) -> None:
    expected = json.loads((assets / "cmcs" / "expected.json").read_text())
    assert len(expected) == 4
    for name, numbers in expected.items():
        modality, system = name.rsplit("_", 1)[1].split("|")
        made, labels = trained(assets, system, numbers["model"]), labels_of(assets, system)
        values, mask = features(assets, modality), torch.ones(1, 18, dtype=torch.bool)
        with torch.inference_mode():
            outputs = made(values, mask)
            answer = made.decode(outputs)
        logits = outputs.runs[0].video[0]
        np.testing.assert_allclose(logits[:8], numbers["global_logits_first8"], atol=1e-4)
        best = logits.softmax(0).topk(3)
        named = [[*labels, "BG"][int(index)] for index in best.indices]
        assert named == [label for label, _ in numbers["top3"]]
        np.testing.assert_allclose(best.values, [score for _, score in numbers["top3"]], atol=1e-4)
        curve = answer.curves[0, :, labels.index(numbers["cas_class"])]
        np.testing.assert_allclose(curve, numbers["cas"], atol=1e-4)
        graph = from_detector(made, "activations")
        session = open_session(EXPORTERS["onnx"](graph), "onnx", name)
        assert all(gap.relative <= 1e-4 for gap in parity.tensor_gaps(graph, session))
        found = session.run({"features": values.numpy(), "mask": mask.numpy()})
        np.testing.assert_allclose(found["activations"], answer.curves, atol=1e-4)
        np.testing.assert_allclose(found["video_scores"], answer.video_scores, atol=1e-4)


def real_bundle(assets: Path, folder: Path, system: str, weights: Any, **changes: Any) -> Bundle:
    """`weights`: one file's path in the assets, or one for RGB and one for flow."""
    config = json.loads((assets / "cmcs" / f"trained-{system}.json").read_text())
    several = isinstance(weights, dict)
    placed = {name: str(assets / "cmcs" / path) for name, path in weights.items()} if several else ""
    detector = {
        "layout": "official-late-fusion" if several else "official",
        "config": config,
        "weights": placed or str(assets / "cmcs" / weights),
        "rules": "thumos" if system.startswith("thumos") else "activitynet",
    }
    folder.mkdir()
    return exported(folder, detector, labels_of(assets, system), 2048 if several else 1024, **changes)


@needs_assets
@pytest.mark.slow
@pytest.mark.parametrize("modality", ["rgb", "flow"])
def test_real_weights_find_the_lift_in_features_of_the_real_clip(assets: Path, tmp_path: Path, modality: str) -> None:
    from models.detectors import cmcs_rules

    weights = f"trained-anet13-local-I3D-run-0/model-{modality}-30000"
    reference = assets / "i3d_features" / "v_GGSY1Qvo990_reference.npz"
    how = {**STACKS, "arrays": f"raft_24_24_25_{modality}"}
    released = real_bundle(assets, tmp_path / "released", "anet13-local-I3D", weights)
    at_mean = real_bundle(assets, tmp_path / "mean", "anet13-local-I3D", weights, postprocessing=cmcs_rules.thumos())
    found, wide = (
        [s for s in detected(bundle, reference, **how) if s.label == "Clean and jerk"] for bundle in (at_mean, released)
    )
    print(f"{modality}: at the mean {found[0]}, as released {wide[0]}")
    assert overlap(found[0]) >= 0.55
    assert wide[0].end_s - wide[0].start_s > 15  # nearly the whole clip of 18.16 s


@needs_assets
@pytest.mark.slow
def test_real_weights_say_what_they_find_in_the_long_jump(assets: Path, tmp_path: Path) -> None:
    run = "trained-thumos-I3D-run-0/model-{}-15000"
    weights = {modality: run.format(modality) for modality in ("rgb", "flow")}
    bundle = real_bundle(assets, tmp_path / "thumos", "thumos-I3D", weights)
    parts = [np.load(assets / "i3d_features" / f"women_long_jump_{kind}.npy") for kind in ("rgb", "flow")]
    np.save(tmp_path / "jump.npy", np.concatenate(parts, axis=1))
    found = detected(bundle, tmp_path / "jump.npy", **STACKS)
    for segment in found:
        print(segment)
    assert all(0 <= segment.score <= 1 and segment.label in THUMOS for segment in found)


def overlap(segment: Segment) -> float:
    return float(tiou([[segment.start_s, segment.end_s]], [list(TRUTH_S)])[0, 0])
