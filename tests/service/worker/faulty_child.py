"""A job whose video's name asks for a fault in, that fault out; every other job is done as ever.

The real model process with one step before the work, started by `worker_process`: production code has no switch for it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from service.errors import InferenceFailed
from service.pipeline import pipeline
from service.pipeline.video import VideoReader
from service.worker import executor

ROOT = str(Path(__file__).parents[3])
CODE = "import sys; sys.path.insert(0, sys.argv[1]); from tests.service.worker.faulty_child import main; "
COMMAND = (sys.executable, "-P", "-c", CODE + "main(sys.argv[2], *map(int, sys.argv[3:]))", ROOT)
HUNG_DECODER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from service.pipeline import decode_child, decoders
real = decoders.PyAvDecoder.frames
def hanging(self):
    yield next(real(self))
    time.sleep(600)
decoders.PyAvDecoder.frames = hanging
decode_child.main(*map(int, sys.argv[2:]))
"""
REAL_ANSWER, REAL_DECODE, REAL_DECODER = executor._answer, pipeline.video.decode, VideoReader.__init__.__defaults__


def done(**fields: Any) -> bytes:
    """A result as a process would send it that writes over its own memory: well formed, and wrong."""
    sane = {"text": "{}", "stages_s": {}, "video_s": 1.0, "frames": 1, "decoder": "pyav", "segments": 0}
    told = {"kind": "done", "job": "1", **sane, "features": None, "gpu_oom": False, "batches": {}, **fields}
    return json.dumps(told).encode() + b"\n"


NONSENSE = {
    "text": b"Segmentation fault\n",
    "binary": b"\xff\xfe\x00{\n",
    "list": b"[1, 2]\n",
    "kind": b'{"kind": "dance"}\n',
    "fields": b'{"kind": "done", "job": "1"}\n',
    "number": b'{"kind": "progress", "job": "1", "stage": "decode", "done": NaN, "total": 1}\n',
    "deep": b"[" * 100_000 + b"\n",
    "negative": done(frames=-1),
    "vast": done(video_s=10**400),
    "truth": done(segments=True),
    "stage": done(stages_s={"decode": -1.0}),
    "surrogate": done(decoder="\ud800"),
    "surrogate_name": done(stages_s={"\ud800": 1.0}),
}
runs_folder = Path()


def main(folder: str, parent_pid: int, link_fd: int) -> None:
    global runs_folder  # noqa: PLW0603
    runs_folder = Path(folder)
    executor._answer = answer
    executor.main(parent_pid, link_fd)


def answer(supervisor: Any, shelf: Any, setup: Any, message: Any) -> dict[str, Any]:
    kind, _, amount = message["video_name"].partition("-")
    with (runs_folder / message["job"]).open("a") as runs:
        runs.write("x")
    VideoReader.__init__.__defaults__, pipeline.video.decode = REAL_DECODER, REAL_DECODE
    if kind in FAULTS:
        FAULTS[kind](supervisor, message["job"], amount)
    if kind == "gpu":
        be_slow(supervisor, message["job"], amount)
        shelf.is_on_gpu = lambda name: True
        raise InferenceFailed("CUDA error 700: an illegal memory access was encountered")
    answered = REAL_ANSWER(supervisor, shelf, setup, message)
    if kind == "late":
        be_deaf(supervisor, message["job"], amount)
    if kind == "big":
        answered["text"] = answered["text"][:-1] + f', "padding": "{"x" * int(amount)}"}}'
    return answered


def first_run(job_id: str) -> bool:
    return (runs_folder / job_id).read_text() == "x"


def be_slow(supervisor: Any, job_id: str, seconds: str, *, heeds: bool = True) -> None:
    end_s = time.monotonic() + float(seconds)
    while time.monotonic() < end_s:
        if heeds:
            supervisor.heed_cancel(job_id)
        supervisor.send("progress", job=job_id, stage="slow", done=0, total=1)
        time.sleep(0.02)


def be_deaf(supervisor: Any, job_id: str, seconds: str) -> None:
    be_slow(supervisor, job_id, seconds, heeds=False)


def be_silent_once(supervisor: Any, job_id: str, seconds: str) -> None:
    if first_run(job_id):
        time.sleep(float(seconds))


def hold_the_interpreter(supervisor: Any, job_id: str, seconds: str) -> None:
    ctypes.PyDLL(None).usleep(int(float(seconds) * 1e6))


def grow_once(supervisor: Any, job_id: str, mib: str) -> None:
    hoard: list[bytearray] = []
    while first_run(job_id):
        be_slow(supervisor, job_id, "0.01")
        if len(hoard) < int(mib) // 16:
            hoard.append(bytearray(os.urandom(2**20)) * 16)


def die(supervisor: Any, job_id: str, times: str) -> None:
    if times != "once" or first_run(job_id):
        os.kill(os.getpid(), signal.SIGSEGV)


def talk_nonsense(supervisor: Any, job_id: str, which: str) -> None:
    if first_run(job_id):
        supervisor._link.sendall(NONSENSE[which])
        be_slow(supervisor, job_id, "60", heeds=False)


def hang_the_decoder_once(supervisor: Any, job_id: str, _: str) -> None:
    if first_run(job_id):
        VideoReader.__init__.__defaults__ = ((sys.executable, "-P", "-c", HUNG_DECODER, ROOT),)


def have_no_decoder(supervisor: Any, job_id: str, _: str) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise LookupError("a decoder was asked for")

    pipeline.video.decode = refuse


def have_a_defect(supervisor: Any, job_id: str, _: str) -> None:
    raise LookupError("of its own")


FAULTS = {
    "slow": be_slow,
    "deaf": be_deaf,
    "silent": be_silent_once,
    "gil": hold_the_interpreter,
    "grow": grow_once,
    "die": die,
    "nonsense": talk_nonsense,
    "hang": hang_the_decoder_once,
    "undecoded": have_no_decoder,
    "defect": have_a_defect,
}
