"""What a model process needs in, a running one out: messages to it and from it, its memory, its end.

Messages are JSON, one a line, over a socket pair that nobody else inherits: the end of file is the death of one side.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from service.jobs.stores import StoreAddress
from service.pipeline.pipeline import Decoding
from service.pipeline.video import DecodeLimits
from service.runtime.onnx_session import OnnxOptions
from service.worker import messages
from service.worker.messages import Message
from service.worker.metrics import RestartReason
from service.worker.process_memory import tree_bytes

_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
_CHILD_CODE = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from service.worker.executor import main; main(*map(int, sys.argv[2:]))"
)
CHILD_COMMAND = (sys.executable, "-P", "-c", _CHILD_CODE, str(_PACKAGE_ROOT))
# What is read in one go, so that a process that talks without end does not keep the supervisor from its other work.
_READ_BYTES, _READS = 256 * 1024, 64
# How long a killed process may take to be gone.
BURIAL_S = 5.0
LONGEST_MESSAGE_BYTES = 256 * 1024 * 1024

log = logging.getLogger("tal.worker")


@dataclass(frozen=True)
class ExecutorSetup:
    """What the model process is told at its start; `models` maps names to folders, the first is the default."""

    models: Mapping[str, str]
    resident_models: int = 2
    runtime: OnnxOptions = field(default_factory=OnnxOptions)
    trusted_torch: tuple[str, ...] = ()
    decoding: Decoding = field(default_factory=Decoding)
    store: StoreAddress | None = None

    def to_message(self) -> Message:
        return {"kind": "setup", **asdict(self)}

    @classmethod
    def from_message(cls, message: Message) -> ExecutorSetup:
        fields = {name: message[name] for name in cls.__dataclass_fields__}
        decoding = fields.pop("decoding")
        return cls(
            **{
                **fields,
                "runtime": OnnxOptions(**fields["runtime"]),
                "trusted_torch": tuple(fields["trusted_torch"]),
                "store": StoreAddress(**fields["store"]) if fields["store"] else None,
                "decoding": Decoding(decoding["decoder"], DecodeLimits(**decoding["limits"])),
            }
        )


class Child:
    """One model process. Start it in the main thread only: Linux ends it together with the thread that started it."""

    def __init__(self, setup: ExecutorSetup, command: Sequence[str]) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            arguments = [*command, str(os.getpid()), str(theirs.fileno())]
            try:
                self._process = subprocess.Popen(
                    arguments, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
                )
            except BaseException:
                self._socket.close()
                raise
        self._received = b""
        self.pid = self._process.pid
        self.models: dict[str, dict[str, Any]] = {}
        self.refusal: Message | None = None
        self.killed_for: RestartReason | None = None
        self.killed_at_s = math.inf
        self.send(setup.to_message())
        self._socket.setblocking(False)

    @property
    def ready(self) -> bool:
        return bool(self.models)

    @property
    def usable(self) -> bool:
        return self.ready and self.killed_for is None

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: Message) -> None:
        # A child that is dead, or reads no more, is found out by its silence.
        with contextlib.suppress(OSError):
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[Message] | None:
        """The messages that have come, without waiting; None once it is dead and all was read."""
        ended = self._read()
        *lines, self._received = self._received.split(b"\n")
        received: list[Message] = []
        try:
            for line in lines:
                received.append(messages.read(line))  # noqa: PERF401  (what came before nonsense counts)
            if len(self._received) > LONGEST_MESSAGE_BYTES:
                raise ValueError(f"a message of more than {LONGEST_MESSAGE_BYTES} bytes")
        except (ValueError, RecursionError) as error:
            log.error("model process %d is killed, it says nonsense: %s", self.pid, error)
            self.kill("crash")
            self._received = b""
        for message in received:
            self._remember(message)
        return None if ended and not received else received

    def memory_bytes(self) -> int:
        return tree_bytes(self.pid)

    def kill(self, reason: RestartReason) -> None:
        if self.killed_for is None:
            self.killed_for, self.killed_at_s = reason, time.monotonic()
        self._process.kill()

    def close(self) -> str:
        """Ends it, whatever it does, and tells how it ended."""
        self._process.kill()  # nothing, where it has ended by itself
        self._socket.close()
        try:
            status = self._process.wait(BURIAL_S)
        except subprocess.TimeoutExpired:  # stuck in the kernel, as in a driver
            return f"still there {BURIAL_S:g} s after SIGKILL"
        return signal.Signals(-status).name if status < 0 else f"exit status {status}"

    def died_of(self) -> str:
        """How a process that closed its side ended; one that closed it and lives on is killed."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        return self.close()

    def _read(self) -> bool:
        """Whether its side was closed."""
        for _ in range(_READS):
            try:
                part = self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                return False
            except OSError:
                return True
            if not part:
                return True
            self._received += part
        return False

    def _remember(self, message: Message) -> None:
        if message["kind"] == "ready":
            self.models = message["models"]
        if message["kind"] == "refused":
            self.refusal = message
