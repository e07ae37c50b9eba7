"""Marionette's motion and annotations in; how much of what is called still lies in actions, by rule, out.

    python -m benchmarks.still_parts --folder build/marionette

CMCS takes what is still for background. `make` writes motion as if nothing were still amid an action: times of actions
are needed for it, so it is a look at what right hard negatives would do, and no way to train.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training import static_parts
from training.datasets import catalog
from training.feature_files import write_atomically
from training.motion import pack
from training.static_parts import Motion, StaticRule

RESULTS = Path(__file__).parent / "results"
OUTSIDE = "motion-outside"
RULES = (
    StaticRule(),
    StaticRule(least_s=1.0),
    StaticRule(least_s=4.0),
    StaticRule(percentile=15.0),
    StaticRule(percentile=15.0, least_s=1.0),
    StaticRule(percentile=10.0, least_s=1.0),
    StaticRule(smoothing="dilation"),
    StaticRule(percentile=5.0, smoothing="dilation"),
    StaticRule(percentile=5.0, smoothing="dilation", least_s=1.0),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("build/marionette"))
    text = table(parser.parse_args().folder.resolve())
    print(text)
    (RESULTS / "still_parts.md").write_text(text, encoding="utf-8")


def make(folder: Path) -> None:
    (folder / OUTSIDE).mkdir(exist_ok=True)
    for video, motion, acted in _training_videos(folder):
        intensity = np.where(acted, motion.intensity.max(), motion.intensity)
        changed = Motion(intensity, motion.frame_times_s)
        write_atomically(folder / OUTSIDE / f"{video}.npz", pack(changed, motion.fps))


def table(folder: Path) -> str:
    videos = [(motion, acted) for _, motion, acted in _training_videos(folder)]
    everywhere = np.concatenate([acted for _, acted in videos]).mean()
    about = (
        f"Of {len(videos)} training videos, by the rule that finds hard negatives of CMCS, the published one first: "
        "how many videos are used, how much of them is called still, and how much of that lies in an annotated action; "
        f"of all frames {100 * everywhere:.1f} % do."
    )
    head = ["# Still parts of Marionette's training videos", "", about, ""]
    lines = [*head, "| still | smoothing | at least | videos | of their frames | of that in actions |"]
    lines.append("|---|---|---:|---:|---:|---:|")
    for rule in RULES:
        found = [(static_parts.static_frames(motion, rule), acted) for motion, acted in videos]
        used = [(mask, acted) for mask, acted in found if static_parts.is_usable(mask, rule)]
        shares = ("-", "-")
        if used:
            mask, acted = (np.concatenate(parts) for parts in zip(*used, strict=True))
            shares = (f"{100 * mask.mean():.1f} %", f"{100 * acted[mask].mean():.1f} %")
        below = f"below percentile {rule.percentile:g}"
        lines.append(f"| {below} | {rule.smoothing} | {rule.least_s:g} s | {len(used)} | {' | '.join(shares)} |")
    return "\n".join(lines) + "\n"


def _training_videos(folder: Path) -> Iterator[tuple[str, Motion, NDArray[np.bool_]]]:
    """With its motion, and which frames lie in an action."""
    truth = catalog.read("json", folder / "annotations.json", "training").ground_truth
    for index, video in enumerate(truth.videos):
        motion = static_parts.read(folder / "motion", video)
        acted = np.zeros(len(motion.frame_times_s), bool)
        for start_s, end_s in truth.segments_s[truth.video_indices == index]:
            acted |= (start_s <= motion.frame_times_s) & (motion.frame_times_s < end_s)
        yield video, motion, acted


if __name__ == "__main__":
    main()
