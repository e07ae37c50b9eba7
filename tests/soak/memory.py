"""Does memory stay flat? `tal detect` on a long and a short 1080p video; peak memory of all its processes together.

    python -m tests.soak.memory --fps 30        two hours against ten minutes, as `make soak` does

Prints a table; exits with 1 when the long video needs more than a tenth more than the short one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import psutil

from tests.support import bundles as tiny

SIZE_PX = (1920, 1080)
SEGMENT_S = 10
TOLERANCE = 1.10
MIB = 1024 * 1024


@dataclass(frozen=True)
class Run:
    minutes: float
    frames: int
    peak_rss_bytes: int
    seconds: float


def make_video(path: Path, duration_s: float, fps: int) -> Path:
    """One encoded passage of moving bars, repeated by copying its packets: hours of video in seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "g": str(fps)})
        stream.width, stream.height = SIZE_PX
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, fps)
        packets = list(_encode(stream, fps * SEGMENT_S))
        length = fps * SEGMENT_S
        ticks = int(Fraction(1, fps) / packets[0].time_base)
        contents = [(bytes(p), p.pts, p.dts, p.is_keyframe, p.time_base) for p in packets]
        for repeat in range(round(duration_s / SEGMENT_S)):
            for data, pts, dts, is_key, time_base in contents:
                packet = av.Packet(data)
                packet.stream, packet.time_base, packet.is_keyframe = stream, time_base, is_key
                packet.pts, packet.dts = pts + repeat * length * ticks, dts + repeat * length * ticks
                container.mux(packet)
    return path


def _encode(stream, num_frames: int):
    width, height = SIZE_PX
    ramp = np.arange(width, dtype=np.float32)[None] + np.arange(height, dtype=np.float32)[:, None] / 3
    for index in range(num_frames):
        picture = np.repeat(((ramp + 7 * index) % 256).astype(np.uint8)[..., None], 3, axis=2)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts = index
        yield from stream.encode(frame)
    yield from stream.encode()


def measure(bundle: Path, video: Path, duration_s: float, fps: int) -> Run:
    command = [sys.executable, "-c", "from service.cli import main; main()"]
    arguments = ["detect", str(video), "--bundle", str(bundle), "--format", "csv"]
    environment = {**os.environ, "TAL_DEVICE": "cpu"}
    began = time.monotonic()
    with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, env=environment) as process:
        peak = 0
        try:
            while process.poll() is None:
                peak = max(peak, _rss_bytes(process.pid))
                time.sleep(0.05)
        finally:
            process.kill()
        printed = process.stdout.read().decode() if process.stdout else ""
    if process.returncode != 0 or printed.count("\n") < 2:
        raise SystemExit(f"tal detect failed with {process.returncode}: {printed[:200]}")
    return Run(duration_s / 60, round(duration_s * fps), peak, time.monotonic() - began)


def _rss_bytes(pid: int) -> int:
    total = 0
    try:
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in family:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def compare(fps: int, long_s: float, short_s: float) -> tuple[Run, Run]:
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        # Windows of 16 frames, one every 8: the backbone sees 16 pixels a side, so decoding is what is measured.
        tiny.classifier(
            bundle,
            streams=[tiny.stream(clip_frames=16)],
            grid={"fps": "native", "stride_frames": 8, "offset_frames": 8, "tail": "pad"},
        )
        runs = []
        for duration_s in (short_s, long_s):
            video = make_video(Path(folder) / "video.mp4", duration_s, fps)
            runs.append(measure(bundle, video, duration_s, fps))
            video.unlink()
    return runs[0], runs[1]


def table(fps: int, runs: tuple[Run, Run]) -> str:
    rows = [
        f"| {run.minutes:.0f} min | {run.frames} | {run.peak_rss_bytes / MIB:.0f} MiB | {run.seconds:.0f} s |"
        for run in runs
    ]
    ratio = runs[1].peak_rss_bytes / runs[0].peak_rss_bytes
    head = [f"1920x1080 at {fps} frames/s, `tal detect` with a tiny bundle, all processes together:", ""]
    columns = ["| video | frames | peak RSS | wall time |", "|---|---|---|---|"]
    return "\n".join([*head, *columns, *rows, "", f"long / short: {ratio:.3f}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fps", type=int, default=30)
    parser.add_argument("--long-s", type=float, default=7200)
    parser.add_argument("--short-s", type=float, default=600)
    parser.add_argument("--output", type=Path, help="write the table to this file, too")
    chosen = parser.parse_args()
    short, long = compare(chosen.fps, chosen.long_s, chosen.short_s)
    found = table(chosen.fps, (short, long))
    print(found)
    if chosen.output:
        chosen.output.write_text(f"# Memory of long videos\n\n{found}\n")
    sys.exit(long.peak_rss_bytes > TOLERANCE * short.peak_rss_bytes)


if __name__ == "__main__":
    main()
