"""`tal demo`: nothing in; a new video, what the shipped model finds in it, the truth beside it, and a picture out."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import Annotated

import typer

from models import geometry
from service import settings
from service.configured import decoding, find_model, onnx_options
from service.localization import Segment

FOUND_TIOU = 0.5
LEAST_SCORE = 0.25  # what is shown; a metric wants the unlikely ones, too
INK_TRUTH, INK_FOUND = (80, 150, 60), (190, 110, 40)


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for the video and the picture.")] = Path("demo"),
    seed: Annotated[int | None, typer.Option(help="Draws the video; by default one that nobody has seen.")] = None,
    bundle: Annotated[str | None, typer.Option("--bundle", "-b", help="Model; default the one that ships.")] = None,
) -> None:
    """Renders a video of known actions, detects them with the shipped model, and shows both side by side."""
    from service import timeline  # noqa: PLC0415  (draws with OpenCV, which no other command needs at its start)
    from service.pipeline.pipeline import localize  # noqa: PLC0415
    from service.runtime import loaded_model  # noqa: PLC0415
    from training.marionette import benchmark, encode, script  # noqa: PLC0415  (doors import training inside a command)

    config = settings.read()
    model = loaded_model.load(
        find_model(bundle, config), onnx_options(config, None), trusted_torch=config.trusted_torch
    )
    drawn = secrets.randbelow(1 << 31) if seed is None else seed
    wanted = script.write_lively(drawn)
    out.mkdir(parents=True, exist_ok=True)
    path = out / wanted.file_name
    _say(f"rendering {path} (seed {drawn}) …")
    benchmark.render_video(wanted, path)
    began = time.monotonic()
    found = localize(path, model, decoding=decoding(config))
    seconds = time.monotonic() - began
    truth = tuple(Segment(event.start_s, event.end_s, event.motion, 1.0) for event in wanted.instances)
    likely = tuple(one for one in found.segments if one.score >= LEAST_SCORE)
    typer.echo(_table(truth, likely))
    duration_s = encode.duration_s(wanted)
    picture = out / "timeline.png"
    tracks = (timeline.Track("truth", INK_TRUTH, truth), timeline.Track("found", INK_FOUND, likely))
    timeline.draw(picture, f"{path.name}, {model.info.name} {model.info.version}", duration_s, tracks)
    _say(f"{duration_s:.0f} s of video in {seconds:.1f} s; timeline: {picture}")


def _table(truth: tuple[Segment, ...], found: tuple[Segment, ...]) -> str:
    """A row per action with the best answer for it, then what was found beyond."""
    rows = [f"{'truth':<34}{'found':<40}tIoU", ""]
    left = list(found)
    for segment in truth:
        alike = [one for one in left if one.label == segment.label and _tiou(segment, one) >= FOUND_TIOU]
        if not alike:
            rows.append(f"{_told(segment):<34}{'–':<40}")
            continue
        best = max(alike, key=lambda one: one.score)
        left.remove(best)
        rows.append(f"{_told(segment):<34}{_told(best) + f'  {best.score:.2f}':<40}{_tiou(segment, best):.2f}")
    rows += [f"{'–':<34}{_told(segment)}  {segment.score:.2f}" for segment in left]
    return "\n".join(rows)


def _told(segment: Segment) -> str:
    return f"{segment.start_s:7.2f} – {segment.end_s:6.2f}  {segment.label}"


def _tiou(first: Segment, second: Segment) -> float:
    return float(geometry.tiou([[first.start_s, first.end_s]], [[second.start_s, second.end_s]])[0, 0])


def _say(message: str) -> None:
    typer.echo(message, err=True)
