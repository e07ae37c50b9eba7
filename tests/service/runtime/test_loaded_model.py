"""Which graphs a bundle may bring: TorchScript only with the operator's word, alone or beside ONNX."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from models import bundle as bundles
from models.bundle import Bundle
from service.errors import DeviceUnavailable, InvalidBundle
from service.pipeline.pipeline import localize
from service.runtime import loaded_model
from service.runtime.feature_ops import DeviceOps, HostOps
from service.runtime.loaded_model import LoadedModel
from service.runtime.onnx_session import OnnxOptions, OnnxSession
from tests.support import bundles as tiny
from tests.support import videos

CPU = OnnxOptions(device="cpu")
GARBAGE = b"no archive"


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    flashes = videos.flashes((1.0, 2.0), (3.0, 3.5))
    return videos.write(tmp_path_factory.mktemp("v") / "flashes.mp4", flashes, duration_s=5)


def torch_bundle(folder: Path, archive: bytes = GARBAGE) -> Bundle:
    described = tiny.manifest(streams=[tiny.stream(graph="features.rgb.pt")])
    return bundles.write(folder, described, {"features.rgb.pt": archive})


def trusting(bundle: Bundle) -> LoadedModel:
    return loaded_model.load(bundle.folder, CPU, trusted_torch=[bundle.sha256])


def test_an_archive_is_refused_unread_unless_its_bundle_is_trusted(tmp_path: Path) -> None:
    bundle = torch_bundle(tmp_path / "b")
    advice = (
        r"^brightness: graph 'features.rgb.pt' is a TorchScript archive, .* "
        rf"set TAL_ALLOW_TORCH_BUNDLES=1 and list its digest {bundle.sha256} in TAL_TRUSTED_TORCH_BUNDLES$"
    )
    for trusted in ([], ["0" * 64]):
        with pytest.raises(InvalidBundle, match=advice):
            loaded_model.load(tmp_path / "b", CPU, trusted_torch=trusted)


def test_a_trusted_bundle_with_garbage_is_an_invalid_one(tmp_path: Path) -> None:
    pytest.importorskip("torch", exc_type=ImportError)
    with pytest.raises(InvalidBundle, match=r"brightness/features.rgb.pt: torch cannot load it: "):
        trusting(torch_bundle(tmp_path / "b"))


def test_a_tampered_archive_is_refused_by_its_digest_before_it_is_parsed(tmp_path: Path) -> None:
    bundle = torch_bundle(tmp_path / "b")
    (tmp_path / "b" / "features.rgb.pt").write_bytes(GARBAGE[::-1])
    with pytest.raises(InvalidBundle, match="it was changed or damaged"):
        trusting(bundle)


def test_a_changed_manifest_is_another_bundle(tmp_path: Path) -> None:
    bundle = torch_bundle(tmp_path / "b")
    manifest = tmp_path / "b" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("1.0.0", "1.0.1"))
    with pytest.raises(InvalidBundle, match="TAL_TRUSTED_TORCH_BUNDLES"):
        trusting(bundle)


def test_an_archive_by_another_name_is_no_torchscript(tmp_path: Path) -> None:
    described = tiny.manifest(streams=[tiny.stream(graph="features.rgb.PT")])
    bundle = bundles.write(tmp_path / "b", described, {"features.rgb.PT": GARBAGE})
    with pytest.raises(InvalidBundle, match="ONNX Runtime cannot load it"):
        trusting(bundle)


def test_without_torch_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(DeviceUnavailable, match=re.escape("install the extra 'train' (pip install '.[train]')")):
        trusting(torch_bundle(tmp_path / "b"))


@pytest.mark.parametrize(
    ("kind", "replaced"),
    [
        ("classifier", {"features.rgb": "brightness_scores"}),
        ("candidates", {"features.rgb": "brightness_features", "detector": "point_candidates"}),
        ("candidates", {"features.rgb": "brightness_features"}),
        ("candidates", {"detector": "point_candidates"}),
        ("activations", {"features.rgb": "brightness_features", "detector": "activation_detector"}),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else value,
)
def test_torchscript_graphs_give_the_segments_of_their_onnx_twins(
    tmp_path: Path, video: Path, kind: str, replaced: dict[str, str]
) -> None:
    pytest.importorskip("torch", exc_type=ImportError)
    from tests.support import torchscripts

    onnx = getattr(tiny, kind)(tmp_path / "onnx")
    archives = {stem: getattr(torchscripts, name)() for stem, name in replaced.items()}
    model = trusting(torchscripts.twin(onnx, tmp_path / "torch", archives))
    wanted = localize(video, loaded_model.load(tmp_path / "onnx", CPU))
    found = localize(video, model)
    assert len(wanted.segments) >= 2
    assert [(s.start_s, s.end_s, s.label) for s in found.segments] == [
        (s.start_s, s.end_s, s.label) for s in wanted.segments
    ]
    assert [s.score for s in found.segments] == pytest.approx([s.score for s in wanted.segments], abs=1e-6)
    engine = "TorchScript-CPU" if "features.rgb" in replaced else "CPUExecutionProvider"
    assert found.model.provider == engine


def test_graphs_of_two_engines_meet_on_the_host(tmp_path: Path, video: Path) -> None:
    # As on a GPU, where the ONNX graph keeps its outputs on the device.
    pytest.importorskip("torch", exc_type=ImportError)
    from service.runtime.torchscript_session import TorchScriptSession
    from tests.support import torchscripts

    bundle = tiny.candidates(tmp_path / "b")
    sessions: dict[str, Any] = {
        name: OnnxSession(bundle.read_file(name), CPU, bind=True) for name in bundle.manifest.graphs
    }
    assert isinstance(loaded_model.join(bundle, sessions, CPU).ops, DeviceOps)
    for graph, archive in (
        ("detector.onnx", torchscripts.point_candidates()),
        ("features.rgb.onnx", torchscripts.brightness_features()),
    ):
        mixed = loaded_model.join(bundle, {**sessions, graph: TorchScriptSession(archive, CPU)}, CPU)
        assert isinstance(mixed.ops, HostOps)
        assert localize(video, mixed).segments == localize(video, loaded_model.load(tmp_path / "b", CPU)).segments


def test_a_streaming_archive_carries_its_state(tmp_path: Path, video: Path) -> None:
    pytest.importorskip("torch", exc_type=ImportError)
    from tests.support import graphs, torchscripts

    state = {"reset": "video", "tensors": [{"input": "memory_in", "output": "memory_out", "shape": [1, 1]}]}
    stream = tiny.stream(
        clip_frames=2,
        resize={"mode": "exact", "size_px": [8, 8]},
        input={"dtype": "float32", "scale": 1 / 255},
        outputs={"scores": "logits", "score_activation": "sigmoid"},
        state=state,
    )
    grid = {"fps": "native", "stride_frames": 2, "offset_frames": 0}
    described = tiny.manifest(streams=[stream], grid=grid)
    onnx = bundles.write(tmp_path / "onnx", described, {"features.rgb.onnx": graphs.counting_stream()})
    model = trusting(torchscripts.twin(onnx, tmp_path / "torch", {"features.rgb": torchscripts.counting_stream()}))
    found = localize(video, model).segments
    wanted = localize(video, loaded_model.load(tmp_path / "onnx", CPU)).segments
    assert [(s.start_s, s.end_s, s.label) for s in found] == [(s.start_s, s.end_s, s.label) for s in wanted] != []
    assert [s.score for s in found] == pytest.approx([s.score for s in wanted], abs=1e-6)
