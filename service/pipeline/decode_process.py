"""A decode request in; a child process that answers it with messages out, and a typed error however it ends."""

from __future__ import annotations

import json
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from service import errors
from service.pipeline.frame_ring import create_memory
from service.pipeline.frame_views import FrameView

DecoderChoice = Literal["auto", "pyav", "decord"]

_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
_CHILD_CODE = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from service.pipeline.decode_child import main; main(*map(int, sys.argv[2:]))"
)
CHILD_COMMAND = (sys.executable, "-P", "-c", _CHILD_CODE, str(_PACKAGE_ROOT))
# One thread each: videos are the unit of parallel work, and a pool's stacks would count against the memory limit.
_CHILD_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
    # glibc would map and unmap every full-size picture; kept on its heap instead, 1080p decodes twice as fast.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 1024 * 1024),
    "MALLOC_TRIM_THRESHOLD_": str(256 * 1024 * 1024),
}
_MESSAGE_LIMIT_BYTES = 1024 * 1024
_TOLD_KINDS: list[type[errors.TalError]] = [
    *errors.VideoError.__subclasses__(),
    errors.FrameTooLarge,
    errors.InvalidOptions,
]
_TOLD_ERRORS = {kind.code: kind for kind in _TOLD_KINDS}

Message = dict[str, Any]


@dataclass(frozen=True)
class DecodeLimits:
    """What one video may cost.

    `stall_s` is the longest silence of the decoder, not the length of the whole decode. `memory_bytes` counts address
    space: the libraries take 0.4 GiB of it, an 8K picture about as much again.
    """

    memory_bytes: int = 4 * 1024**3
    stall_s: float = 30.0
    cpu_base_s: float = 60.0
    cpu_s_per_video_s: float = 20.0
    max_duration_s: float = 6 * 3600.0
    max_frame_px: int = 8192 * 8192
    max_file_bytes: int = 64 * 1024**3
    threads: int = 1


@dataclass(frozen=True)
class DecodeRequest:
    """What the child is asked for: the frames that begin in [start_s, end_s), or all of them.

    `skip_samples` go unsent, since another decoder delivered them before it failed.
    """

    path: str
    views: tuple[FrameView, ...] = ()
    fps: float | None = None
    decoder: DecoderChoice = "auto"
    limits: DecodeLimits = DecodeLimits()
    skip_samples: int = 0
    start_s: float | None = None
    end_s: float | None = None
    header_only: bool = False

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> DecodeRequest:
        fields: dict[str, Any] = json.loads(text)
        views = tuple(_view_from_json(view) for view in fields.pop("views"))
        return cls(views=views, limits=DecodeLimits(**fields.pop("limits")), **fields)


def _view_from_json(fields: dict[str, Any]) -> FrameView:
    arguments: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return FrameView(**arguments)


class DecodeProcess:
    """One child and its two pipes; it is gone, and leaves nothing, once this is closed or collected."""

    def __init__(self, request: DecodeRequest, command: Sequence[str]) -> None:
        self._limits = request.limits
        self._process, self._control_fd, self._message_fd, self.memory_fd = _start(command)
        self._poll = select.poll()
        self._poll.register(self._message_fd, select.POLLIN)
        fds = (self._control_fd, self._message_fd, self.memory_fd)
        self._end = weakref.finalize(self, _end, self._process, fds)
        self._write(request.to_json().encode() + b"\n")

    def receive(self) -> Message:
        """The child's next message; its errors, silence and death are raised. Only waiting counts as silence."""
        deadline_s = time.monotonic() + self._limits.stall_s
        (size,) = struct.unpack("=I", self._read(4, deadline_s))
        if size > _MESSAGE_LIMIT_BYTES:
            raise errors.DecoderCrashed(f"the decoder process sent nonsense (a message of {size} bytes)")
        message: Message = json.loads(self._read(size, deadline_s))
        if message["kind"] == "error":
            raise self._told_error(message)
        return message

    def free_slot(self) -> None:
        self._write(b"\x01")

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self._end()

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._control_fd, rest) :]
        except BrokenPipeError:
            return  # it died; receive() finds out how

    def _read(self, size: int, deadline_s: float) -> bytes:
        data = b""
        while len(data) < size:
            wait_ms = max(0.0, deadline_s - time.monotonic()) * 1000
            if not self._poll.poll(wait_ms):
                raise errors.DecodeTimeout(f"the decoder made no progress for {self._limits.stall_s:g} s")
            part = os.read(self._message_fd, size - len(data))
            if not part:
                raise self._death()
            data += part
        return data

    def _told_error(self, message: Message) -> errors.TalError:
        if message["code"] == errors.DecodeOutOfMemory.code:
            return errors.DecodeOutOfMemory(f"decoding needs more than the {self._limits.memory_bytes} bytes allowed")
        return _TOLD_ERRORS.get(message["code"], errors.DecoderCrashed)(message["message"])

    def _death(self) -> errors.VideoError:
        try:
            status = self._process.wait(self._limits.stall_s)
        except subprocess.TimeoutExpired:
            return errors.DecodeTimeout(f"the decoder made no progress for {self._limits.stall_s:g} s")
        if status == -signal.SIGXCPU:
            return errors.DecodeTimeout("the decoder used up the processor time that its video's length allows")
        cause = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return errors.DecoderCrashed(f"the decoder process died ({cause})")


def _start(command: Sequence[str]) -> tuple[subprocess.Popen[bytes], int, int, int]:
    ours: list[int] = []
    theirs: list[int] = []
    try:
        control_read, control_write = os.pipe()
        theirs.append(control_read)
        ours.append(control_write)
        message_read, message_write = os.pipe()
        theirs.append(message_write)
        ours.append(message_read)
        memory = create_memory()
        ours.append(memory)
        passed = (control_read, message_write, memory)
        arguments = [*command, str(os.getpid()), *map(str, passed)]
        process = _spawner().submit(_spawn, arguments, passed).result()
    except BaseException as error:
        for fd in ours:
            os.close(fd)
        if isinstance(error, OSError):
            raise errors.DecoderCrashed(f"no decoder process could be started: {error.strerror}") from error
        raise
    finally:
        for fd in theirs:
            os.close(fd)
    return process, control_write, message_read, memory


_spawners: dict[int, ThreadPoolExecutor] = {}
_spawners_lock = threading.Lock()


def _spawner() -> ThreadPoolExecutor:
    """Linux ends the child with the thread that started it, so one thread that lives as long as this process does it.

    One per process: a fork does not inherit threads.
    """
    with _spawners_lock:
        if os.getpid() not in _spawners:
            _spawners[os.getpid()] = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode-spawner")
        return _spawners[os.getpid()]


def _unlock_after_fork() -> None:
    global _spawners_lock  # noqa: PLW0603  (the parent's other threads, one of which may hold it, are not here)
    _spawners_lock = threading.Lock()


os.register_at_fork(after_in_child=_unlock_after_fork)


def _spawn(arguments: Sequence[str], fds: Sequence[int]) -> subprocess.Popen[bytes]:
    # FFmpeg and decord print what they think of a file; the terminal and the log are not theirs.
    quiet = subprocess.DEVNULL
    environment = {**os.environ, **_CHILD_ENVIRONMENT}
    return subprocess.Popen(arguments, pass_fds=fds, stdin=quiet, stdout=quiet, stderr=quiet, env=environment)


def _end(process: subprocess.Popen[bytes], fds: Sequence[int]) -> None:
    process.kill()
    process.wait()
    for fd in fds:
        os.close(fd)
