"""The bytes of an ONNX graph in, a `Session` on ONNX Runtime out; CPU or CUDA, and never silently the other."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from service.errors import DeviceUnavailable, InferenceFailed, InvalidBundle, first_line
from service.runtime.device_graphs import identity
from service.runtime.session import Array, Device, Tensor, TensorSpec, to_numpy

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
QUIET = 4  # ONNX Runtime's severity "fatal": its errors reach callers as exceptions, its warnings are not for users


@dataclass(frozen=True)
class OnnxOptions:
    """`threads` 0 lets ONNX Runtime take every core; 0 bytes set no limit on its arenas.

    The CPU's arena is one for the whole process, so the first session's limit holds.
    """

    device: Device = "auto"
    threads: int = 0
    gpu_memory_bytes: int = 0
    gpu_index: int = 0
    cpu_memory_bytes: int = 0


@dataclass(frozen=True)
class OrtTensor:
    """A tensor that ONNX Runtime holds, on the host or on a GPU."""

    value: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape())

    def numpy(self) -> Array:
        return np.asarray(self.value.numpy())


class OnnxSession:
    """One graph in ONNX Runtime. `bind` routes every run through IOBinding, which CUDA always uses."""

    def __init__(self, graph: bytes, options: OnnxOptions, *, name: str = "graph", bind: bool = False) -> None:
        provider = choose_provider(options.device, options.gpu_index)
        try:
            self._session = _open(graph, options, _providers(provider, options))
        except Exception as error:
            if provider == CUDA and _loads_on_cpu(graph, options):
                raise DeviceUnavailable(f"{name}: CUDA fails: {first_line(error)}; {_cuda_advice()}") from error
            raise InvalidBundle(f"{name}: ONNX Runtime cannot load it: {first_line(error)}") from error
        active = self._session.get_providers()
        if provider not in active:
            raise DeviceUnavailable(
                f"{name}: device 'cuda' was asked for, but ONNX Runtime runs it on {', '.join(active)}; "
                f"{_preload_cuda() or 'its CUDA provider does not start'}; {_cuda_advice()}"
            )
        self.name, self.provider, self._options = name, provider, options
        self.inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node) for node in self._session.get_outputs())
        self.keeps_on_device = bind or provider == CUDA

    def run(
        self, feeds: Mapping[str, Tensor], *, keep: Collection[str] = (), want: Collection[str] = ()
    ) -> dict[str, Tensor]:
        names = [spec.name for spec in self.outputs if not want or spec.name in want]
        try:
            if self.keeps_on_device:
                return self._run_bound(feeds, keep, names)
            arrays = {name: to_numpy(tensor) for name, tensor in feeds.items()}
            return dict(zip(names, self._session.run(names, arrays), strict=True))
        except Exception as error:
            shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in feeds.items())
            raise InferenceFailed(f"{self.name}: failed on {shapes}: {first_line(error)}") from error

    def _run_bound(self, feeds: Mapping[str, Tensor], keep: Collection[str], names: list[str]) -> dict[str, Tensor]:
        home = ("cuda", self._options.gpu_index) if self.provider == CUDA else ("cpu", 0)
        binding = self._session.io_binding()
        for name, tensor in feeds.items():
            if isinstance(tensor, OrtTensor):
                binding.bind_ortvalue_input(name, tensor.value)
            else:
                binding.bind_cpu_input(name, np.ascontiguousarray(to_numpy(tensor)))
        for name in names:
            binding.bind_output(name, *(home if name in keep else ("cpu", 0)))
        self._session.run_with_iobinding(binding)
        values = binding.get_outputs()
        return {
            name: OrtTensor(value) if name in keep else value.numpy() for name, value in zip(names, values, strict=True)
        }


def choose_provider(device: Device, gpu_index: int = 0) -> str:
    """`auto` takes CUDA where it works; `cuda` takes nothing else and says what is missing."""
    if device == "cpu":
        return CPU
    if CUDA in available_providers() and (device == "cuda" or _cuda_works(gpu_index)):
        return CUDA
    if device == "cuda":
        raise DeviceUnavailable(
            f"device 'cuda' was asked for, but this ONNX Runtime has only "
            f"{', '.join(available_providers())}; {_cuda_advice()}"
        )
    return CPU


def available_providers() -> list[str]:
    return list(_runtime().get_available_providers())


@cache
def _runtime() -> Any:
    try:
        import onnxruntime as ort  # noqa: PLC0415  (absent until the extra cpu or gpu is installed)
    except ImportError as error:
        raise DeviceUnavailable(
            "ONNX Runtime is not installed; install the extra 'cpu' (pip install '.[cpu]') or 'gpu'"
        ) from error
    ort.disable_telemetry_events()
    ort.set_default_logger_severity(QUIET)
    return ort


def _open(graph: bytes, options: OnnxOptions, providers: list[Any]) -> Any:
    # ONNX Runtime's own fallback to other providers announces itself on standard output.
    return _runtime().InferenceSession(graph, _session_options(options), providers=providers, enable_fallback=0)


def _loads_on_cpu(graph: bytes, options: OnnxOptions) -> bool:
    try:
        _open(graph, options, [CPU])
    except Exception:  # noqa: BLE001  (whatever it is, the graph is at fault)
        return False
    return True


@cache
def _cuda_works(gpu_index: int) -> bool:
    """The CUDA wheel lists its provider on machines without a GPU too; only loading its libraries tells."""
    options = OnnxOptions(device="cuda", gpu_index=gpu_index)
    try:
        return CUDA in _open(identity(), options, _providers(CUDA, options)).get_providers()
    except Exception:  # noqa: BLE001  (whatever it is, CUDA does not work here)
        return False


def _session_options(options: OnnxOptions) -> Any:
    ort = _runtime()
    settings = ort.SessionOptions()
    settings.log_severity_level = QUIET
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    # Spinning threads would take the cores from the decoder, which works at the same time.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if options.cpu_memory_bytes:
        _share_cpu_arena(options.cpu_memory_bytes)
        settings.add_session_config_entry("session.use_env_allocators", "1")
    return settings


@cache
def _share_cpu_arena(limit_bytes: int) -> None:
    ort = _runtime()
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    same_as_requested = 1
    arena = ort.OrtArenaCfg({"max_mem": limit_bytes, "arena_extend_strategy": same_as_requested})
    ort.create_and_register_allocator(memory, arena)


def _providers(provider: str, options: OnnxOptions) -> list[Any]:
    if provider == CPU:
        return [CPU]
    cuda: dict[str, Any] = {
        "device_id": options.gpu_index,
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": "0",  # ten bits of mantissa would undo what an export's parity promises
    }
    if options.gpu_memory_bytes:
        cuda["gpu_mem_limit"] = options.gpu_memory_bytes
    _preload_cuda()
    return [(CUDA, cuda), CPU]


@cache
def _preload_cuda() -> str:
    """Loads the CUDA libraries that pip installs; what ONNX Runtime prints about missing ones is returned instead."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        _runtime().preload_dlls()
    lines = [line for line in printed.getvalue().splitlines() if line.startswith("Failed")]
    return "; ".join(line.partition(": ")[2] or line for line in lines)


def _spec(node: Any) -> TensorSpec:
    shape = tuple(dim if isinstance(dim, int) else None for dim in node.shape)
    return TensorSpec(node.name, shape, node.type.removeprefix("tensor(").removesuffix(")"))


def _cuda_advice() -> str:
    return "it needs the extra 'gpu', CUDA 13 with cuDNN 9 and a driver that sees a GPU; or choose device 'cpu'"
