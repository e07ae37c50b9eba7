"""Two generated clips in; how fast each decoder serves them through `video.decode`, as a table and JSON, out.

`decoders.FASTER_DECODER` follows the winner recorded here. The rounds are interleaved, so that a busy machine slows
both decoders alike. The figure that decides is taken on one core: a worker decodes one video per core, and a second
core that decord's reading thread may borrow would be taken from another job.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path

import av
import cv2
import numpy as np

from service.pipeline.video import FrameView, decode

RESULTS = Path(__file__).parent / "results"
DECODERS = ("pyav", "decord")


@dataclass(frozen=True)
class Case:
    name: str
    size_px: tuple[int, int]
    num_frames: int
    view: FrameView
    fps: float | None = None


MODEL_SIZE = FrameView("exact", (340, 256))
CASES = (
    Case("1280x720 to 340x256", (1280, 720), 180, MODEL_SIZE),
    Case("1280x720 to 340x256, 8 of 30 fps", (1280, 720), 180, MODEL_SIZE, fps=8),
    Case("340x256 at native size", (340, 256), 1200, FrameView()),
    Case("340x256 at native size, 8 of 30 fps", (340, 256), 1200, FrameView(), fps=8),
)


def write_clip(path: Path, case: Case) -> None:
    """A camera that pans over a textured scene: motion and detail, as a codec meets them in real footage."""
    width, height = case.size_px
    noise = np.random.default_rng(0).integers(0, 256, (height + 256, width + 256, 3), dtype=np.uint8)
    scene = cv2.GaussianBlur(noise, (0, 0), 3)
    scene = cv2.normalize(scene, None, 0, 255, cv2.NORM_MINMAX)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "23"}
        for index in range(case.num_frames):
            left, top = (round(128 + 127 * wave(index / 60)) for wave in (np.sin, np.cos))
            view = np.ascontiguousarray(scene[top : top + height, left : left + width])
            frame = av.VideoFrame.from_ndarray(view, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def frames_per_s(path: Path, case: Case, decoder: str) -> float:
    """Of the video, sampled or not; the start of the child process is part of what a request pays."""
    started_s = time.perf_counter()
    with decode(path, [case.view], fps=case.fps, decoder=decoder) as reader:
        for _ in reader:
            pass
    if reader.summary.decoder != decoder or reader.summary.num_frames != case.num_frames:
        raise SystemExit(f"{decoder} did not serve {case.name}: {reader.summary}")
    return case.num_frames / (time.perf_counter() - started_s)


def measure(rounds: int) -> Iterator[dict[str, object]]:
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            path = Path(folder) / f"{case.size_px[0]}.mp4"
            if not path.exists():
                write_clip(path, case)
            speeds: dict[str, list[float]] = {decoder: [] for decoder in DECODERS}
            for turn in range(rounds + 1):
                for decoder in DECODERS:
                    speed = frames_per_s(path, case, decoder)
                    if turn:  # the first turn only warms the file cache
                        speeds[decoder].append(speed)
            medians = {decoder: round(statistics.median(values), 1) for decoder, values in speeds.items()}
            yield {"case": case.name, **medians, "pyav_to_decord": round(medians["pyav"] / medians["decord"], 3)}


def table(title: str, rows: list[dict[str, object]]) -> str:
    lines = [f"## {title}", "", "| case | PyAV, frames/s | decord, frames/s | PyAV ÷ decord |", "|---|---:|---:|---:|"]
    lines += [f"| {row['case']} | {row['pyav']} | {row['decord']} | {row['pyav_to_decord']} |" for row in rows]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    cores = os.sched_getaffinity(0)
    all_cores = list(measure(options.rounds))
    os.sched_setaffinity(0, {min(cores)})
    one_core = list(measure(options.rounds))
    ratio = statistics.geometric_mean(float(str(row["pyav_to_decord"])) for row in one_core)
    result = {
        "winner": "pyav" if ratio >= 1 else "decord",
        "geometric_mean_pyav_to_decord": round(ratio, 3),
        "one_core": one_core,
        "all_cores": all_cores,
        "cores": len(cores),
        "rounds": options.rounds,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("av", "decord", "opencv-python-headless", "numpy")},
    }
    text = "\n".join(
        [
            "# Decoders: PyAV and decord side by side",
            "",
            f"`python -m benchmarks.decoders --rounds {options.rounds}`",
            "",
            "Frames of the video per second through `video.decode`, the start of its process included; medians.",
            "",
            table("One core (this decides)", one_core),
            table(f"{len(cores)} cores", all_cores),
            f"Geometric mean of PyAV ÷ decord on one core: {ratio:.2f}. `TAL_DECODER=auto` is **{result['winner']}**.",
            "",
        ]
    )
    (options.output / "decoders.md").write_text(text)
    (options.output / "decoders.json").write_text(json.dumps(result, indent=2) + "\n")
    print(text)


if __name__ == "__main__":
    main()
