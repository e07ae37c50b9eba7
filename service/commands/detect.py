"""`tal detect`: videos, or files of features, in; segments of each on standard output or in a file out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from service import localization, settings
from service.client import Ask
from service.commands import feature_detect, remote_detect
from service.commands.bars import bars
from service.configured import decoding, find_model, onnx_options
from service.errors import InvalidOptions, ModelNotFound, TalError
from service.formats import Format
from service.localization import DetectOptions, Extra, Localization
from service.pipeline.extraction import OnProgress
from service.pipeline.pipeline import Preset, check_request, localize
from service.pipeline.segments import check_options
from service.runtime import loaded_model
from service.runtime.session import Device
from service.sink import Sink

SOME_FAILED = 1


def detect(
    files: Annotated[
        list[Path], typer.Argument(help="Videos, or files of features.", metavar="FILE...", show_default=False)
    ],
    bundle: Annotated[
        str | None, typer.Option("--bundle", "-b", help="Model: a bundle's folder, or a name under TAL_HOME/models.")
    ] = None,
    format: Annotated[Format, typer.Option("--format", "-f", help="How to print.")] = "table",  # noqa: A002
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write to this file; with several subtitles, into this folder."),
    ] = None,
    min_score: Annotated[float | None, typer.Option(help="Drop segments that score less (0 to 1).")] = None,
    top_k: Annotated[int | None, typer.Option(help="Keep at most so many segments per video.")] = None,
    labels: Annotated[
        list[str] | None, typer.Option(help="Only these labels; several by commas or by repeating.")
    ] = None,
    device: Annotated[Device | None, typer.Option(help="Where the model runs; default TAL_DEVICE.")] = None,
    start: Annotated[float | None, typer.Option(help="Look from this second of the video on.")] = None,
    end: Annotated[float | None, typer.Option(help="Look no further than to this second of the video.")] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(help="'activations': also tell how strong each label is over time (in JSON)."),
    ] = None,
    preset: Annotated[
        Preset, typer.Option(help="Post-processing for use, or with many low scores for a metric.")
    ] = "use",
    server: Annotated[
        str | None,
        typer.Option(envvar="TAL_SERVER", help="Upload to the service at this URL, instead of running a model here."),
    ] = None,
    features: Annotated[
        bool, typer.Option("--features", help="FILEs hold features (.npz, .npy, .h5) instead of videos.")
    ] = False,
    stride_frames: Annotated[
        float | None, typer.Option(help="Of features made elsewhere: frames between rows; default as the bundle's.")
    ] = None,
    offset_frames: Annotated[
        float | None, typer.Option(help="The frame that row 0 stands for; default the middle of its clip.")
    ] = None,
    clip_frames: Annotated[int | None, typer.Option(help="Frames that a row saw; default as the bundle's.")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames per second that rows were made at.")] = None,
    layout: Annotated[
        Literal["tc", "ct"] | None, typer.Option(help="Rows first (tc, the default), or channels first.")
    ] = None,
    array: Annotated[
        str | None, typer.Option(help="Name in an .npz or .h5; several by commas stand side by side.")
    ] = None,
) -> None:
    """Which actions happen in each FILE, from when to when.

    A file that cannot be read does not stop the others; the exit status is then 1.
    """
    how = feature_detect.FeatureOptions(stride_frames, offset_frames, clip_frames, fps, layout, array)
    if how.given and not features:
        raise InvalidOptions(f"{', '.join(how.given)}: for files of features; --features says that they are")
    if server:
        if features:
            raise InvalidOptions("--features is for models that run here; the service takes videos")
        if device is not None or preset != "use":
            raise InvalidOptions("--device and --preset are for models that run here; the service has its own")
        known = remote_detect.known_labels(server, bundle) if labels else ()
        options = DetectOptions(min_score, top_k, _split_labels(labels, known), start, end, _extras(include))
        if labels:
            check_options(options, known)
        _detect_at(server, files, Ask(bundle, options), format, output)
        return
    config = settings.read()
    model = loaded_model.load(
        find_model(bundle, config), onnx_options(config, device), trusted_torch=config.trusted_torch
    )
    wanted = _split_labels(labels, model.manifest.segment_labels)
    options = DetectOptions(min_score, top_k, wanted, start, end, _extras(include))
    check_request(model.manifest, options, preset)
    names = _names(files)
    failed = 0
    _refuse_overwriting(files, output)
    with Sink(format, output, names) as sink, _progress() as track:
        for number, (path, name) in enumerate(zip(files, names, strict=True), 1):
            follow = track(f"{name} ({number}/{len(files)})" if len(files) > 1 else name)
            try:
                if features:
                    result = feature_detect.localize_file(path, model, options, preset, how)
                else:
                    result = localize(
                        path, model, options, decoding=decoding(config), preset=preset, on_progress=follow
                    )
            except TalError as error:
                failed += 1
                _complain(f"{path}: {error} [{error.code}]")
            except Exception as error:  # noqa: BLE001  (a defect of ours must not cost the videos after this one)
                failed += 1
                _complain(f"{path}: {type(error).__name__}: {error} [{TalError.code}]; a defect, please report it")
            else:
                sink.add(replace(result, video_name=name))
    if failed:
        _complain(f"{len(files) - failed} of {len(files)} videos done, {failed} failed")
        raise typer.Exit(SOME_FAILED)


def _detect_at(server: str, files: list[Path], ask: Ask, form: Format, output: Path | None) -> None:
    names, failed = _names(files), 0
    _refuse_overwriting(files, output)
    with Sink(form, output, names) as sink, _progress() as track:

        def take(path: Path, answer: Localization | Exception) -> None:
            nonlocal failed
            if isinstance(answer, Localization):
                sink.add(answer)
            elif isinstance(answer, TalError) and not isinstance(answer, ModelNotFound):
                failed += 1
                _complain(f"{path}: {answer} [{answer.code}]")
            else:
                raise answer

        remote_detect.detect_all(server, list(zip(files, names, strict=True)), ask, track, take)
    if failed:
        _complain(f"{len(files) - failed} of {len(files)} videos done, {failed} failed")
        raise typer.Exit(SOME_FAILED)


def _split_labels(given: list[str] | None, known: tuple[str, ...]) -> tuple[str, ...] | None:
    if given is None:
        return None
    labels = tuple(label for value in given for label in label_list(value, known))
    if not labels:
        raise InvalidOptions(f"labels {given} name none; leave the option out to get all of them")
    return labels


def _extras(given: list[str] | None) -> tuple[Extra, ...]:
    """They are held against the list of extras with all other options."""
    return cast("tuple[Extra, ...]", tuple(given or ()))


def label_list(text: str, known: tuple[str, ...]) -> list[str]:
    """A text that is a label stays whole, commas and all; any other is a list."""
    return [text] if text in known else [part.strip() for part in text.split(",") if part.strip()]


def _names(files: list[Path]) -> list[str]:
    """What videos are called in the answer: their file names, or as given where those are not distinct."""
    names = [path.name for path in files]
    return names if len(set(names)) == len(names) else [str(path) for path in files]


def _refuse_overwriting(files: list[Path], output: Path | None) -> None:
    if output is not None and output.exists():
        read = next((path for path in files if path.exists() and path.samefile(output)), None)
        if read is not None:
            raise InvalidOptions(f"output {output} is {read}, which is to be read; name another file")


def _complain(message: str) -> None:
    typer.echo(message, err=True)


@contextmanager
def _progress() -> Iterator[Callable[[str], OnProgress]]:
    """A bar on a terminal; in a pipe, silence."""
    with bars() as progress:

        def track(name: str) -> OnProgress:
            task = progress.add_task(name, total=None)

            def show(step: localization.Progress) -> None:
                # Each stage counts in a unit of its own, and decoding is what takes time.
                if step.stage == "decode":
                    progress.update(task, completed=step.done, total=step.total)

            return show

        yield track
