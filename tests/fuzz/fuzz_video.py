"""Seed videos in; a table of what decoding made of their mutants out. Exit status 1 if any hung, crashed or leaked.

    python -m tests.fuzz.fuzz_video --count 500 --seed 0

A mutant may give frames (with a warning or, where the damage cannot be seen, without one) or a typed error of the
video's. What it must not do: kill the decoder process through a fault of our own, take longer than its time, or leave a
process, a file descriptor or a block of shared memory behind.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from service import errors
from service.pipeline.decode_process import DecoderChoice
from service.pipeline.frame_views import FrameView
from service.pipeline.video import DecodeLimits, decode
from tests.service.pipeline.video_samples import Sample, steady, write

SEEDS: dict[str, Sample] = {
    "h264.mp4": Sample(steady(60), b_frames=2, size_px=(160, 120)),
    "h264_faststart.mp4": Sample(steady(60), size_px=(160, 120), container_options={"movflags": "+faststart"}),
    "h264_fragments.mp4": Sample(steady(60), container_options={"movflags": "frag_keyframe+empty_moov"}),
    "h264.mkv": Sample(steady(60), b_frames=2, size_px=(160, 120)),
    "h264.ts": Sample(steady(60), b_frames=2, size_px=(160, 120)),
    "hevc.mp4": Sample(steady(40), codec="libx265", size_px=(160, 120)),
    "vp9.webm": Sample(steady(60), codec="libvpx-vp9", ticks_per_s=1000, size_px=(160, 120)),
    "mpeg4.avi": Sample(steady(60), codec="mpeg4", ticks_per_s=25, size_px=(160, 120)),
    "mpeg2.mpg": Sample(steady(60), codec="mpeg2video", ticks_per_s=25, size_px=(160, 120)),
    "h264.flv": Sample(steady(60), ticks_per_s=1000, size_px=(160, 120)),
}
DECODERS: tuple[DecoderChoice, ...] = ("pyav", "decord")
LIMITS = DecodeLimits(stall_s=10.0, cpu_base_s=10.0, cpu_s_per_video_s=1.0, memory_bytes=2 * 1024**3)
TIME_LIMIT_S = 25.0  # two stalls and a start: decord may hang before PyAV gets its turn
VIEW = FrameView("short_side", 64)


def flip_bits(content: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice([1, 3, 10, 100])):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)


def truncate(content: bytearray, chance: random.Random) -> None:
    del content[chance.randrange(len(content)) :]


def zero_range(content: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(content))
    length = min(chance.choice([1, 16, 256, 4096]), len(content) - start)
    content[start : start + length] = bytes(length)


def duplicate_block(content: bytearray, chance: random.Random) -> None:
    start, target = chance.randrange(len(content)), chance.randrange(len(content))
    content[target:target] = content[start : start + chance.choice([1, 188, 1024])]


def flip_header(content: bytearray, chance: random.Random) -> None:
    """Where sizes, counts and time scales are; MP4 keeps them at either end."""
    at = chance.randrange(min(1024, len(content)))
    content[at if chance.random() < 0.5 else -1 - at] = chance.randrange(256)


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip_bits, truncate, zero_range, duplicate_block, flip_header,
)  # fmt: skip


@dataclass
class Report:
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    def add(self, seed: str, outcome: str, took_s: float) -> None:
        self.outcomes.setdefault(seed, Counter())[outcome] += 1
        self.slowest_s = max(self.slowest_s, took_s)

    def table(self) -> str:
        columns = sorted({name for counts in self.outcomes.values() for name in counts})
        lines = ["| file | " + " | ".join(columns) + " | all |", "|---|" + "---:|" * (len(columns) + 1)]
        total: Counter[str] = Counter()
        for seed, counts in sorted(self.outcomes.items()):
            total += counts
            lines.append(_row(seed, counts, columns))
        return "\n".join([*lines, _row("**all**", total, columns)])


def _row(name: str, counts: Counter[str], columns: list[str]) -> str:
    return f"| {name} | " + " | ".join(str(counts[column]) for column in columns) + f" | {counts.total()} |"


def outcome_of(path: Path, decoder: DecoderChoice) -> str:
    """How decoding ended; an error outside the tree is let through."""
    try:
        with decode(path, [VIEW], decoder=decoder, limits=LIMITS) as reader:
            num_frames = sum(len(batch.times_s) for batch in reader)
        damage = [warning for warning in reader.summary.warnings if "decord" not in warning]
    except errors.VideoError as error:
        if isinstance(error, errors.DecoderCrashed | errors.DecodeTimeout):
            raise
        return error.code
    if num_frames == 0:
        raise AssertionError("neither a frame nor an error")
    return "frames and a warning" if damage else "frames"


def fuzz(count: int, seed: int, report: Report) -> None:
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        originals = {name: write(Path(folder) / name, sample).read_bytes() for name, sample in SEEDS.items()}
        outcome_of(Path(folder) / next(iter(SEEDS)), "pyav")  # starts the thread that lives as long as we do
        resources = held_resources()
        for index in range(count):
            name = list(SEEDS)[index % len(SEEDS)]
            content = bytearray(originals[name])
            mutations = chance.sample(MUTATIONS, chance.choice([1, 1, 2]))
            for mutate in mutations:
                if content:
                    mutate(content, chance)
            path = Path(folder) / f"mutant_{name}"
            path.write_bytes(content)
            what = f"mutant {index} ({name}, {', '.join(m.__name__ for m in mutations)}, seed {seed})"
            try_one(path, name, DECODERS[index // len(SEEDS) % 2], what, report)
        gc.collect()
        # Fewer than before are those of other tests that ended meanwhile.
        if any(now > before for now, before in zip(held_resources(), resources, strict=True)):
            report.violations.append(f"left behind: {held_resources()}, before: {resources}")


def try_one(path: Path, name: str, decoder: DecoderChoice, what: str, report: Report) -> None:
    started_s = time.monotonic()
    try:
        outcome = outcome_of(path, decoder)
    except Exception as error:  # noqa: BLE001  # anything that is no typed refusal is a finding
        outcome = "VIOLATION"
        report.violations.append(f"{what} by {decoder}: {type(error).__name__}: {error}")
    took_s = time.monotonic() - started_s
    if took_s > TIME_LIMIT_S:
        report.violations.append(f"{what} by {decoder}: took {took_s:.1f} s")
    report.add(name, outcome, took_s)


def held_resources() -> tuple[int, int, int]:
    shared = Path("/dev/shm")
    process = psutil.Process()
    blocks = len(list(shared.iterdir())) if shared.is_dir() else 0
    return process.num_fds(), len(process.children(recursive=True)), blocks


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="also write the table here, as Markdown")
    options = parser.parse_args()
    report = Report()
    fuzz(options.count, options.seed, report)
    text = "\n".join(
        [
            "# Mutated videos",
            "",
            f"`python -m tests.fuzz.fuzz_video --count {options.count} --seed {options.seed}`",
            "",
            "Bit flips, truncations, zeroed ranges, doubled blocks and altered headers. PyAV and decord take turns.",
            "",
            report.table(),
            "",
            f"Slowest mutant: {report.slowest_s:.1f} s. Hangs, crashes, leaks: {len(report.violations)}.",
            "",
        ]
    )
    print(text, *report.violations, sep="\n")
    if options.output:
        options.output.write_text(text)
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
