"""The contract of a session, run over every way to run a graph; and what each refuses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from service.errors import DeviceUnavailable, InferenceFailed, InvalidBundle
from service.runtime import device_graphs, onnx_session
from service.runtime.onnx_session import OnnxOptions, OnnxSession
from service.runtime.session import Device, Session, to_numpy
from service.runtime.torchscript_session import TorchScriptSession
from tests.support import graphs

Open = Callable[[str], Session]

CPU = OnnxOptions(device="cpu", threads=1)
CUDA = OnnxOptions(device="cuda", threads=1)
# The graphs of the contract; tests/support/torchscripts.py has the same ones under the same names.
ONNX: dict[str, Callable[[], bytes]] = {
    "brightness_scores": graphs.brightness_scores,
    "brightness_features": graphs.brightness_features,
    "activation_detector": graphs.activation_detector,
    "point_candidates": graphs.point_candidates,
    "concat_rows": lambda: device_graphs.concat_rows(2),
}


def torchscript(graph: str, device: Device) -> Session:
    torch = pytest.importorskip("torch", exc_type=ImportError)
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a torch that was built for CUDA")
    from tests.support import torchscripts

    # A number of threads would hold for every test in this process.
    return TorchScriptSession(getattr(torchscripts, graph)(), OnnxOptions(device=device))


@pytest.fixture(
    params=[
        pytest.param(lambda graph: OnnxSession(ONNX[graph](), CPU), id="onnx-cpu"),
        pytest.param(lambda graph: OnnxSession(ONNX[graph](), CPU, bind=True), id="onnx-cpu-bound"),
        pytest.param(lambda graph: OnnxSession(ONNX[graph](), CUDA), id="onnx-cuda", marks=pytest.mark.needs_gpu),
        pytest.param(lambda graph: torchscript(graph, "cpu"), id="torchscript-cpu"),
        pytest.param(lambda graph: torchscript(graph, "cuda"), id="torchscript-cuda", marks=pytest.mark.needs_gpu),
    ]
)
def open_session(request: pytest.FixtureRequest) -> Open:
    return request.param


def clips(count: int, value: int = 51) -> np.ndarray:
    return np.full((count, 1, 8, 8, 3), value, np.uint8)


def test_a_session_names_its_inputs_and_outputs(open_session: Open) -> None:
    session = open_session("brightness_scores")
    assert [(spec.name, spec.shape, spec.dtype) for spec in session.inputs] == [
        ("clips", (None, None, None, None, 3), "uint8")
    ]
    assert [(spec.name, spec.shape) for spec in session.outputs] == [("scores", (None, 2))]


def test_a_batch_gives_what_its_members_give_alone(open_session: Open) -> None:
    session = open_session("brightness_scores")
    together = np.concatenate([clips(1, value) for value in (0, 51, 255)])
    alone = [to_numpy(session.run({"clips": together[i : i + 1]})["scores"]) for i in range(3)]
    assert to_numpy(session.run({"clips": together})["scores"]) == pytest.approx(np.concatenate(alone), abs=1e-6)


def test_an_output_kept_on_the_device_feeds_the_next_graph(open_session: Open) -> None:
    first = open_session("brightness_features")
    kept = first.run({"clips": clips(4)}, keep=["features"])["features"]
    assert tuple(kept.shape) == (4, 3)
    assert to_numpy(kept)[:, 1] == pytest.approx(0.4)
    second = open_session("concat_rows")
    joined = second.run({"part_0": kept, "part_1": kept}, want=["rows"])["rows"]
    assert to_numpy(joined) == pytest.approx(np.tile([0.2, 0.4, 0.6], (8, 1)))


def test_only_wanted_outputs_come_back(open_session: Open) -> None:
    session = open_session("activation_detector")
    feeds = {"features": np.ones((1, 3, 4), np.float32), "mask": np.ones((1, 4), bool)}
    assert set(session.run(feeds)) == {"activations", "video_scores"}
    assert set(session.run(feeds, want=["video_scores"])) == {"video_scores"}


def test_a_wrong_input_is_told_with_its_shape(open_session: Open) -> None:
    session = open_session("brightness_scores")
    with pytest.raises(InferenceFailed, match=r"clips \(2, 2\)"):
        session.run({"clips": np.zeros((2, 2), np.uint8)})


def test_what_stands_in_padded_places_changes_nothing(open_session: Open) -> None:
    session = open_session("point_candidates")
    mask = np.array([[True, True, False, False]])
    features = np.ones((1, 3, 4), np.float32)
    noisy = features.copy()
    noisy[:, :, 2:] = 77
    clean = to_numpy(session.run({"features": features, "mask": mask})["scores"])
    assert np.array_equal(clean, to_numpy(session.run({"features": noisy, "mask": mask})["scores"]))


def test_missing_and_unknown_inputs_are_told(open_session: Open) -> None:
    session = open_session("point_candidates")
    with pytest.raises(InferenceFailed, match=r"features \(1, 3, 4\): .*mask"):
        session.run({"features": np.ones((1, 3, 4), np.float32)})
    with pytest.raises(InferenceFailed, match=r"frames \(1, 1, 8, 8, 3\)"):
        open_session("brightness_scores").run({"frames": clips(1)})


def test_another_type_than_the_graph_s_is_refused(open_session: Open) -> None:
    with pytest.raises(InferenceFailed, match=r"clips \(2, 1, 8, 8, 3\): .*(uint8|invalid argument)"):
        open_session("brightness_scores").run({"clips": clips(2).astype(np.float32)})


@dataclass(frozen=True)
class ElsewhereTensor:
    """A tensor of another engine: nothing is known of it but its numbers."""

    values: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def numpy(self) -> np.ndarray:
        return self.values


def test_tensors_of_another_engine_are_taken(open_session: Open) -> None:
    session = open_session("brightness_features")
    found = session.run({"clips": ElsewhereTensor(clips(2))})["features"]
    assert to_numpy(found)[:, 0] == pytest.approx([0.2, 0.2])


def test_any_memory_layout_is_taken_and_left_as_it_was(open_session: Open) -> None:
    session = open_session("brightness_features")
    frames = np.stack([clips(2)[:, 0], clips(2, 255)[:, 0]], axis=1)[::-1, ::-1, ::2]
    frames.flags.writeable = False
    assert to_numpy(session.run({"clips": frames})["features"])[:, 0] == pytest.approx([0.6, 0.6])


def test_bytes_that_are_no_graph_are_refused() -> None:
    with pytest.raises(InvalidBundle, match="ONNX Runtime cannot load it"):
        OnnxSession(b"not a graph", CPU, name="features.onnx")


def test_cuda_is_strict_where_it_is_absent() -> None:
    if onnx_session.CUDA in onnx_session.available_providers():
        pytest.skip("this ONNX Runtime knows CUDA; what it does without a GPU is told by the next test")
    with pytest.raises(DeviceUnavailable, match="device 'cuda' was asked for, but this ONNX Runtime has only"):
        OnnxSession(graphs.brightness_scores(), CUDA)


def test_a_runtime_that_quietly_runs_on_the_cpu_instead_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    # The CUDA wheel lists its provider on every machine; only the session tells what really runs.
    monkeypatch.setattr(onnx_session, "choose_provider", lambda *_: onnx_session.CUDA)
    monkeypatch.setattr(onnx_session, "_providers", lambda provider, options: [onnx_session.CPU])
    with pytest.raises(DeviceUnavailable, match="ONNX Runtime runs it on CPUExecutionProvider"):
        OnnxSession(graphs.brightness_scores(), CUDA)


def test_auto_takes_the_cpu_where_there_is_no_gpu() -> None:
    if onnx_session.CUDA in onnx_session.available_providers():
        pytest.skip("this ONNX Runtime knows CUDA")
    assert OnnxSession(graphs.brightness_scores(), OnnxOptions(device="auto")).provider == onnx_session.CPU


def test_an_arena_limit_holds_and_is_told() -> None:
    # The arena belongs to the whole process, so this one has a process of its own.
    script = """
import numpy as np
from service.errors import InferenceFailed
from service.runtime.onnx_session import OnnxOptions, OnnxSession
from tests.support import graphs
session = OnnxSession(graphs.brightness_scores(), OnnxOptions(device="cpu", threads=1, cpu_memory_bytes=1 << 20))
session.run({"clips": np.zeros((1, 1, 8, 8, 3), np.uint8)})
try:
    session.run({"clips": np.zeros((4, 8, 256, 256, 3), np.uint8)})
except InferenceFailed as error:
    print("refused:", error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("refused: graph: failed on clips (4, 8, 256, 256, 3)")
    assert done.stderr == ""
