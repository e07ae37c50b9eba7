"""The bytes of a TorchScript archive in, a `Session` on libtorch out; the only place of serving that imports torch.

TorchScript keeps no names, shapes or types of a graph's tensors, so an archive of ours carries the file `tal_io.json`
that declares them. What goes in and what comes out is held against it at every run, as ONNX Runtime does.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from models.bundle import explain
from service.errors import DeviceUnavailable, InferenceFailed, InvalidBundle
from service.runtime.onnx_session import OnnxOptions
from service.runtime.session import Array, Device, Tensor, TensorSpec, to_numpy

SUFFIX = ".pt"
IO_FILE = "tal_io.json"
CPU = "cpu"
# ONNX Runtime's name of a type -> NumPy's, which is also torch's.
TYPES = {
    "float": "float32",
    "double": "float64",
    "float16": "float16",
    "bool": "bool",
    "uint8": "uint8",
    "int8": "int8",
    "int16": "int16",
    "int32": "int32",
    "int64": "int64",
}


class GraphIO(BaseModel):
    """What `tal_io.json` says: the arguments of `forward`, and the members of the tuple that it returns, in order."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @field_validator("inputs", "outputs")
    @classmethod
    def _specs_are_sound(cls, specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        names = [spec.name for spec in specs]
        if not all(names) or len(set(names)) != len(names) or not names:
            raise ValueError(f"tensors named {names}; one or more are needed, each with a name of its own")
        for spec in specs:
            if spec.dtype not in TYPES:
                raise ValueError(f"{spec.name!r} has dtype {spec.dtype!r}; one of {', '.join(TYPES)} is needed")
            if any(size is not None and size < 1 for size in spec.shape):
                raise ValueError(
                    f"{spec.name!r} has shape {list(spec.shape)}; sizes are at least 1, or null where free"
                )
        return specs


def io_json(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> str:
    """The text of `tal_io.json`, for `torch.jit.save(module, file, _extra_files={IO_FILE: ...})`."""
    return GraphIO(inputs=tuple(inputs), outputs=tuple(outputs)).model_dump_json()


def parse_io(content: bytes | str, origin: str = IO_FILE) -> GraphIO:
    try:
        return GraphIO.model_validate_json(content)
    except ValidationError as error:
        raise InvalidBundle(f"{origin}: {explain(error, 'description')}") from None


@contextmanager
def deprecation_expected() -> Iterator[None]:
    """Silences what torch.jit.load, save, script, trace and the like say of themselves, and no other warning."""
    # torch is pinned exactly, so the day on which it drops TorchScript is one that we choose; until then the warning
    # says nothing that a caller could act on. `tal` prints to people, and the tests take any warning for an error.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        yield


@dataclass(frozen=True)
class TorchTensor:
    """A tensor that torch holds, on the host or on a GPU."""

    value: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    def numpy(self) -> Array:
        return np.asarray(self.value.cpu().numpy())


class TorchScriptSession:
    """One archive in torch.

    `options.threads` and `options.gpu_memory_bytes` hold for torch in the whole process, so the last session's count; a
    bound on the CPU's memory is unknown to torch. A loaded archive runs the code that came with it: who may load one is
    decided before this class sees it.
    """

    # What this promises is that features can be joined where they are; the graphs that do so run in ONNX Runtime, which
    # would have to take them from the host. Kept tensors stay on the device from one run of this session to the next.
    keeps_on_device = False

    def __init__(self, archive: bytes, options: OnnxOptions, *, name: str = "graph") -> None:
        self._torch = _torch()
        self._device = choose_device(options.device, options.gpu_index)
        self.name, self.provider = name, "TorchScript-CPU" if self._device == CPU else "TorchScript-CUDA"
        _apply(options, self._device)
        self._module, description = _open(archive, self._device, name)
        if not description:
            raise InvalidBundle(f"{name}: the archive holds no {IO_FILE}, which names its inputs and outputs")
        declared = parse_io(description, f"{name}/{IO_FILE}")
        self.inputs, self.outputs = declared.inputs, declared.outputs
        self._check_arguments()

    def run(
        self, feeds: Mapping[str, Tensor], *, keep: Collection[str] = (), want: Collection[str] = ()
    ) -> dict[str, Tensor]:
        try:
            with self._torch.inference_mode():
                outputs = self._call(feeds)
                held = {name: _own(value) for name, value in outputs.items() if not want or name in want}
            return {name: tensor if name in keep else tensor.numpy() for name, tensor in held.items()}
        except Exception as error:
            shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in feeds.items())
            raise InferenceFailed(f"{self.name}: failed on {shapes}: {_reason(error)}") from error

    def _call(self, feeds: Mapping[str, Tensor]) -> dict[str, Any]:
        names = [spec.name for spec in self.inputs]
        if set(feeds) != set(names):
            raise ValueError(f"inputs {', '.join(feeds) or 'none'} were given; it takes {', '.join(names)}")
        given = [self._to_torch(feeds[name]) for name in names]
        for spec, tensor in zip(self.inputs, given, strict=True):
            _check(spec, tensor, "input")
        result = self._module(*given)
        outputs = result if isinstance(result, tuple) else (result,)
        kinds = [type(value).__name__ for value in outputs]
        if kinds != ["Tensor"] * len(self.outputs):
            wanted = ", ".join(spec.name for spec in self.outputs)
            raise ValueError(f"it gave {', '.join(kinds) or 'nothing'}; {IO_FILE} declares the tensors {wanted}")
        for spec, value in zip(self.outputs, outputs, strict=True):
            _check(spec, value, "output")
        return {spec.name: value for spec, value in zip(self.outputs, outputs, strict=True)}

    def _to_torch(self, tensor: Tensor) -> Any:
        """A copy, always: unlike an ONNX graph, a TorchScript graph may write into its inputs."""
        if isinstance(tensor, TorchTensor):
            return tensor.value.to(self._device, copy=True)
        return self._torch.from_numpy(np.array(to_numpy(tensor), order="C")).to(self._device)

    def _check_arguments(self) -> None:
        forward = getattr(self._module, "forward", None)
        if forward is None:
            raise InvalidBundle(f"{self.name}: the archive has no method 'forward'")
        taken = [argument.name for argument in forward.schema.arguments[1:]]
        if len(taken) != len(self.inputs):
            declared = ", ".join(spec.name for spec in self.inputs)
            raise InvalidBundle(
                f"{self.name}: {IO_FILE} declares {len(self.inputs)} inputs ({declared}), "
                f"but forward takes {len(taken)} ({', '.join(taken)})"
            )


def choose_device(device: Device, gpu_index: int = 0) -> str:
    """`auto` takes CUDA where it works; `cuda` takes nothing else and says what is missing."""
    if device == CPU:
        return CPU
    fault = _cuda_fault(gpu_index)
    if not fault:
        return f"cuda:{gpu_index}"
    if device == "cuda":
        raise DeviceUnavailable(
            f"device 'cuda' was asked for, but torch {_torch().__version__} cannot use GPU {gpu_index}: {fault}; "
            f"{_cuda_advice()}"
        )
    return CPU


def _torch() -> Any:
    try:
        import torch  # noqa: PLC0415  (no part of serving until the extra train is installed, and slow to import)
    except (ImportError, OSError) as error:
        raise DeviceUnavailable(
            f"TorchScript graphs need torch, which does not start ({_reason(error)}); "
            "install the extra 'train' (pip install '.[train]')"
        ) from error
    return torch


def _cuda_fault(gpu_index: int) -> str:
    """Why torch cannot use a GPU now, by its own words; nothing where it can."""
    torch = _torch()
    try:
        torch.zeros(1, device=f"cuda:{gpu_index}")
    except Exception as error:  # noqa: BLE001  (whatever it is, CUDA does not work here)
        return _reason(error) or type(error).__name__
    return ""


def _apply(options: OnnxOptions, device: str) -> None:
    torch = _torch()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.backends.cudnn.allow_tf32 = False  # as in ONNX Runtime: parity was promised in full float32
    if device != CPU and options.gpu_memory_bytes:
        total_bytes = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, options.gpu_memory_bytes / total_bytes), device)


def _open(archive: bytes, device: str, name: str) -> tuple[Any, bytes]:
    """The module, and its `tal_io.json`; empty where there is none."""
    try:
        return _load(archive, device)
    except Exception as error:
        if device != CPU and _loads_on_cpu(archive):
            raise DeviceUnavailable(f"{name}: CUDA fails: {_reason(error)}; {_cuda_advice()}") from error
        raise InvalidBundle(f"{name}: torch cannot load it: {_reason(error)}") from error


def _load(archive: bytes, device: str) -> tuple[Any, bytes]:
    extra_files: dict[str, Any] = {IO_FILE: b""}
    with deprecation_expected():
        module = _torch().jit.load(io.BytesIO(archive), map_location=device, _extra_files=extra_files)
    return module.eval(), extra_files[IO_FILE]


def _loads_on_cpu(archive: bytes) -> bool:
    try:
        _load(archive, CPU)
    except Exception:  # noqa: BLE001  (whatever it is, the archive is at fault)
        return False
    return True


def _own(value: Any) -> TorchTensor:
    """A copy, always: what a graph returns may be one of its weights, or a view of another output."""
    return TorchTensor(value.detach().clone(memory_format=_torch().contiguous_format))


def _check(spec: TensorSpec, tensor: Any, what: str) -> None:
    found = str(tensor.dtype).removeprefix("torch.")
    fits = len(spec.shape) == tensor.ndim and all(
        wanted in (None, size) for wanted, size in zip(spec.shape, tensor.shape, strict=True)
    )
    if found != TYPES[spec.dtype] or not fits:
        raise ValueError(
            f"{what} {spec.name!r} is {found} {tuple(tensor.shape)}; "
            f"{IO_FILE} declares {TYPES[spec.dtype]} {spec.shape}, None where free"
        )


def _reason(error: Exception) -> str:
    """One line: the first, or the one after the traceback that TorchScript puts in front of what went wrong."""
    text = str(error).strip()
    told = re.findall(r"^[\w.]*(?:Error|Exception): .*", text, flags=re.MULTILINE)
    line = told[-1] if told and "Traceback of TorchScript" in text else text.split("\n", 1)[0]
    return str(line)[:300]


def _cuda_advice() -> str:
    return "it needs a torch that was built for CUDA and a driver that sees a GPU; or choose device 'cpu'"
