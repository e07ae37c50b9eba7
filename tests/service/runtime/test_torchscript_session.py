"""What a TorchScript archive must say of itself, what it cannot do to its callers, and which archives are refused."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from service.errors import DeviceUnavailable, InferenceFailed, InvalidBundle
from service.runtime.onnx_session import OnnxOptions
from service.runtime.session import TensorSpec, to_numpy
from service.runtime.torchscript_session import (
    IO_FILE,
    TorchScriptSession,
    TorchTensor,
    choose_device,
    deprecation_expected,
    io_json,
    parse_io,
)

torch = pytest.importorskip("torch", exc_type=ImportError)
nn, Tensor = torch.nn, torch.Tensor

from tests.support import torchscripts  # noqa: E402  (it needs torch)
from tests.support.torchscripts import archive, floats  # noqa: E402

CPU = OnnxOptions(device="cpu")
X, Y = floats("x", None, 2), floats("y", None, 2)
ROWS = np.ones((3, 2), np.float32)


class Half(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.half()


class Overwrite(nn.Module):
    """Writes into its input, and returns it beside one of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.add_(1), self.weight


class Raises(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] == 1:
            raise ValueError("one row is too few\nreally")
        return x.reshape(7)


class Drops(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(x)


def session(network: nn.Module, inputs: list[TensorSpec], outputs: list[TensorSpec]) -> TorchScriptSession:
    return TorchScriptSession(archive(network, inputs, outputs), CPU)


def test_what_is_declared_is_written_and_read_back() -> None:
    inputs, outputs = [TensorSpec("clips", (None, 16, 3), "uint8")], [TensorSpec("mask", (), "bool"), X]
    found = parse_io(io_json(inputs, outputs))
    assert (list(found.inputs), list(found.outputs)) == (inputs, outputs)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nonsense", r"^tal_io.json: description: Invalid JSON"),
        (b"\xff", r"^tal_io.json: description: Invalid JSON"),
        ("[]", r"^tal_io.json: description: Input should be an object"),
        ('{"inputs": []}', r"^tal_io.json: inputs: tensors named \[\]; one or more are needed.*; outputs: missing key"),
        ('{"graph": 1}', r"graph: unknown key"),
        ('{"inputs": [{"name": "x", "shape": ["N"], "dtype": "float"}]}', r"inputs.0.shape.0: .*integer.*'N'"),
        (
            '{"inputs": [{"name": "x", "shape": [-1], "dtype": "float"}]}',
            r"shape \[-1\]; sizes are at least 1, or null",
        ),
        ('{"inputs": [{"name": "x", "shape": [], "dtype": "float32"}]}', r"dtype 'float32'; one of float, double"),
        ('{"inputs": [{"name": "x", "shape": []}]}', r"inputs.0.dtype"),
        ('{"inputs": [{"name": "x", "shape": [], "dtype": "float", "axes": 1}]}', r"inputs.0.axes"),
        (
            '{"inputs": [' + ", ".join(['{"name": "x", "shape": [], "dtype": "float"}'] * 2) + "]}",
            r"named \['x', 'x'\]",
        ),
    ],
)
def test_a_description_that_cannot_be_meant_is_told_by_its_place(content: str | bytes, message: str) -> None:
    with pytest.raises(InvalidBundle, match=message):
        parse_io(content)


def test_an_archive_without_a_description_is_refused() -> None:
    with pytest.raises(InvalidBundle, match=r"detector.pt: the archive holds no tal_io.json"):
        TorchScriptSession(torchscripts.undescribed(Half(), {}), CPU, name="detector.pt")
    with pytest.raises(InvalidBundle, match=r"detector.pt/tal_io.json: description: Invalid JSON"):
        TorchScriptSession(torchscripts.undescribed(Half(), {IO_FILE: "{"}), CPU, name="detector.pt")


def test_a_description_of_another_network_is_refused() -> None:
    with pytest.raises(InvalidBundle, match=r"declares 2 inputs \(x, y\), but forward takes 1 \(x\)"):
        session(Half(), [X, Y], [Y])


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, (f"open({str(self.marker)!r}, 'w').close()",)


def tampered(content: bytes, member: str, replacement: bytes) -> bytes:
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(changed, "w") as target:
        assert any(name.endswith(member) for name in source.namelist())
        for name in source.namelist():
            target.writestr(name, replacement if name.endswith(member) else source.read(name))
    return changed.getvalue()


def test_no_archive_at_all_is_refused(tmp_path: Path) -> None:
    sound = torchscripts.brightness_features()
    saved = io.BytesIO()
    torch.save({"weights": torch.zeros(1)}, saved)
    marker = tmp_path / "run by a pickle"
    pickled = pickle.dumps(Evil(marker), protocol=2)  # the one that torch reads
    for content in (
        b"",
        b"PK\x03\x04",
        b"not an archive" * 100,
        sound[:-200],
        saved.getvalue(),
        pickled,
        tampered(sound, "data.pkl", pickled),
        tampered(sound, "constants.pkl", b"\x80\x02garbage"),
        tampered(sound, "/torchscripts.py", b"import os\n"),
    ):
        with pytest.raises(InvalidBundle, match=r"^features.pt: torch cannot load it: [^\n]+$"):
            TorchScriptSession(content, CPU, name="features.pt")
    assert not marker.exists()


def test_outputs_are_held_against_what_is_declared() -> None:
    with pytest.raises(
        InferenceFailed, match=r"x \(3, 2\): output 'y' is float16 \(3, 2\); tal_io.json declares float32"
    ):
        session(Half(), [X], [Y]).run({"x": ROWS})
    wide = session(Drops(), [X], [floats("y", None, 3)])
    with pytest.raises(
        InferenceFailed, match=r"output 'y' is float32 \(3, 2\); tal_io.json declares float32 \(None, 3\)"
    ):
        wide.run({"x": ROWS})
    with pytest.raises(InferenceFailed, match=r"it gave Tensor, Tensor; tal_io.json declares the tensors y$"):
        session(Overwrite(), [X], [Y]).run({"x": ROWS})


def test_only_the_reason_of_a_failure_is_told_not_where_it_stood_in_the_code() -> None:
    failing = session(Raises(), [X], [Y])
    with pytest.raises(
        InferenceFailed, match=r"^graph: failed on x \(3, 2\): RuntimeError: shape '\[7\]' is invalid[^\n]+$"
    ):
        failing.run({"x": ROWS})
    with pytest.raises(
        InferenceFailed, match=r"^graph: failed on x \(1, 2\): builtins.ValueError: one row is too few$"
    ):
        failing.run({"x": ROWS[:1]})


def test_a_network_that_writes_into_its_inputs_harms_nobody() -> None:
    careless = session(Overwrite(), [X], [Y, floats("weight", 1, 2)])
    rows = ROWS.copy()
    kept = careless.run({"x": rows}, keep=["y"])["y"]
    assert isinstance(kept, TorchTensor)
    again = careless.run({"x": kept}, keep=["weight"])
    assert (rows.max(), to_numpy(kept).max(), to_numpy(again["y"]).max()) == (1, 2, 3)
    to_numpy(again["weight"])[:] = 7
    assert to_numpy(careless.run({"x": rows})["weight"]).max() == 0


def test_a_network_saved_in_training_is_run_as_in_use() -> None:
    buffer = io.BytesIO()
    with deprecation_expected():
        torch.jit.save(torch.jit.script(Drops().train()), buffer, _extra_files={IO_FILE: io_json([X], [Y])})
    found = TorchScriptSession(buffer.getvalue(), CPU).run({"x": ROWS})["y"]
    assert np.array_equal(to_numpy(found), ROWS)


def test_only_the_expected_deprecation_is_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with deprecation_expected():
            torch.jit.trace(Half(), torch.zeros(1, 2))
            with pytest.raises(DeprecationWarning, match="another"):
                warnings.warn("another", DeprecationWarning, stacklevel=1)
        with pytest.raises(DeprecationWarning, match=r"torch.jit.script"):
            torch.jit.script(Half())


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_number_of_threads_holds_and_none_leaves_torch_s_own(threads: None) -> None:
    torch.set_num_threads(2)
    TorchScriptSession(torchscripts.brightness_scores(), CPU)
    assert torch.get_num_threads() == 2
    TorchScriptSession(torchscripts.brightness_scores(), OnnxOptions(device="cpu", threads=1))
    assert torch.get_num_threads() == 1


def test_cuda_is_strict_where_it_is_absent() -> None:
    if torch.cuda.is_available():
        pytest.skip("this torch runs on CUDA")
    with pytest.raises(DeviceUnavailable, match=r"device 'cuda' was asked for, but torch .* cannot use GPU 0: .*'cpu'"):
        TorchScriptSession(torchscripts.brightness_scores(), OnnxOptions(device="cuda"))
    assert choose_device("auto") == "cpu"


def test_the_provider_says_which_engine_and_device() -> None:
    assert TorchScriptSession(torchscripts.brightness_scores(), CPU).provider == "TorchScript-CPU"
