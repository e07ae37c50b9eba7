"""A job whose video's name asks for a fault in, that fault out; every other job is done as ever.

This is the real model process with one step before the work, started by `faulty_worker`: production code has no switch
for it. Each run is noted in the file that TAL_FAULTS_RUNS names, so that a trial can count them.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from service.pipeline.video import VideoReader
from service.worker import executor

STEP_S = 0.05
BIG_BYTES = 400 * 1024
HUNG_DECODER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from service.pipeline import decode_child, decoders
real = decoders.PyAvDecoder.frames
def hanging(self):
    for index, frame in enumerate(real(self)):
        time.sleep(600 if index == 5 else 0)
        yield frame
decoders.PyAvDecoder.frames = hanging
decode_child.main(*map(int, sys.argv[2:]))
"""
ROOT = str(Path(__file__).parents[2])
REAL_ANSWER, REAL_DECODER = executor._answer, VideoReader.__init__.__defaults__


def main(parent_pid: int, link_fd: int) -> None:
    executor._answer = answer
    executor.main(parent_pid, link_fd)


def answer(supervisor: Any, shelf: Any, setup: Any, message: Any) -> dict[str, Any]:
    kind, amount = [*message["video_name"].split("-"), ""][:2]
    note_run(message["job"])
    VideoReader.__init__.__defaults__ = REAL_DECODER
    if kind in FAULTS:
        FAULTS[kind](supervisor, message["job"], amount)
    if kind == "hang":
        setup = with_patience(setup, float(amount))
    answered = REAL_ANSWER(supervisor, shelf, setup, message)
    if kind == "big":
        answered["text"] = answered["text"][:-1] + f', "padding": "{"x" * BIG_BYTES}"}}'
    return answered


def note_run(job_id: str) -> None:
    descriptor = os.open(os.environ["TAL_FAULTS_RUNS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, f"{job_id}\n".encode())
    os.close(descriptor)


def be_slow(supervisor: Any, job_id: str, tenths: str) -> None:
    """Heeds cancels and tells of progress all the while."""
    steps = round(int(tenths) * 0.1 / STEP_S)
    for step in range(steps):
        supervisor.heed_cancel(job_id)
        supervisor.send("progress", job=job_id, stage=f"step {step}", done=step, total=steps)
        time.sleep(STEP_S)


def die(supervisor: Any, job_id: str, _: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hold_the_interpreter(supervisor: Any, job_id: str, tenths: str) -> None:
    """As a C extension does that never lets go of the GIL: no other thread of this process gets a turn."""
    ctypes.PyDLL(None).usleep(int(tenths) * 100_000)


def with_patience(setup: Any, stall_s: float) -> Any:
    """As if TAL_DECODE_STALL_S were that; the other jobs of a busy machine keep the ordinary patience."""
    limits = replace(setup.decoding.limits, stall_s=stall_s)
    return replace(setup, decoding=replace(setup.decoding, limits=limits))


def hang_the_decoder(supervisor: Any, job_id: str, _: str) -> None:
    VideoReader.__init__.__defaults__ = ((sys.executable, "-P", "-c", HUNG_DECODER, ROOT),)


FAULTS = {
    "slow": be_slow,
    "big": be_slow,
    "poison": die,
    "gil": hold_the_interpreter,
    "hang": hang_the_decoder,
}
