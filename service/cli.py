"""The `tal` command: files and options in, segments on standard output, everything else on standard error."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Annotated, Literal, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from models import bundle as bundles
from models.bundle import BundleError
from service import localization, settings
from service.client import Ask
from service.commands import (
    batch,
    dataset,
    demo,
    evaluate,
    extract,
    feature_detect,
    jobs,
    keys,
    motion,
    pretrain,
    remote_detect,
    serve,
    synth,
    train,
    worker,
)
from service.configured import SHIPPED, decoding, find_model, onnx_options
from service.errors import InvalidBundle, InvalidOptions, ModelNotFound, TalError
from service.formats import Format
from service.localization import DetectOptions, Extra, Localization
from service.pipeline.extraction import OnProgress
from service.pipeline.pipeline import Preset, check_request, localize
from service.pipeline.segments import check_options
from service.runtime import loaded_model
from service.runtime.session import Device
from service.sink import Sink

SOME_FAILED, MISUSED = 1, 2

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="From a video to action segments."
)
models_app = typer.Typer(no_args_is_help=True, help="Models (bundles) that are installed, and new ones.")
app.add_typer(models_app, name="models")
app.add_typer(jobs.app, name="jobs")
app.add_typer(keys.app, name="keys")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tal {metadata.version('tal-service')}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """From a video to action segments."""


# What makes and measures models has a module for each command; they import what they need when they run.
for command in (
    demo.demo,
    synth.synth,
    dataset.dataset,
    extract.extract,
    motion.motion,
    pretrain.pretrain,
    train.train,
    evaluate.evaluate,
    worker.worker,
    serve.serve,
    batch.batch,
):
    app.command()(command)

ModelArgument = Annotated[str, typer.Argument(help="A name under TAL_HOME/models, or a bundle's folder.")]


def main() -> None:
    """Entry point: what we can explain is one line on standard error, not a traceback."""
    # As an interrupt does, so that half-written folders and decoders are cleaned up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        app()
    except TalError as error:
        _complain(f"error: {error} [{error.code}]")
        sys.exit(MISUSED)


@app.command()
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


@models_app.command("list")
def list_models() -> None:
    """Every model in TAL_HOME/models, and the one that ships."""
    config = settings.read()
    folders = sorted(path for path in config.models_folder.glob("*") if path.is_dir() and not path.name.startswith("."))
    if not folders:
        _complain(f"no models in {config.models_folder}; `tal models import` makes one")
    shipped = [] if (config.models_folder / SHIPPED).is_dir() else [find_model(SHIPPED, config)]
    for folder in [*folders, *shipped]:
        try:
            manifest = bundles.read(folder).manifest
            about = f"{manifest.version:<10} {len(manifest.segment_labels)} labels, {manifest.output_kind}"
        except BundleError as error:
            about = f"unusable: {error}"
        typer.echo(f"{folder.name:<32} {about}")


@models_app.command("show")
def show_model(model: ModelArgument) -> None:
    """A model's manifest, as JSON, with the digest that pins it."""
    bundle = _read_bundle(find_model(model, settings.read()))
    document = bundle.manifest.model_dump(mode="json", exclude_none=True)
    typer.echo(json.dumps({"sha256": bundle.sha256, **document}, indent=2, ensure_ascii=False))


@models_app.command("verify")
def verify_models(models: Annotated[list[str], typer.Argument(help="Names or folders.", metavar="MODEL...")]) -> None:
    """Hashes every file, loads every graph, and holds both against the manifest."""
    config = settings.read()
    failed = 0
    for name in models:
        try:
            model = loaded_model.load(
                find_model(name, config), onnx_options(config, None), trusted_torch=config.trusted_torch
            )
            typer.echo(f"{name}: sound, {model.info.name} {model.info.version}, sha256 {model.info.sha256}")
        except TalError as error:
            failed += 1
            _complain(f"{name}: {error} [{error.code}]")
    if failed:
        raise typer.Exit(SOME_FAILED)


@models_app.command("import")
def import_model(
    graph: Annotated[Path, typer.Argument(help="An ONNX clip classifier, or a streaming one with --signature.")],
    labels: Annotated[Path, typer.Option(help="Labels: one per line, or a JSON list.")],
    name: Annotated[str, typer.Option(help="The model's name: lower case letters, digits, . _ and -.")],
    fps: Annotated[float | None, typer.Option(help="Frames per second that the model sees.")] = None,
    window: Annotated[
        float | None, typer.Option(help="Seconds of video per classification; default 2, if the graph leaves it open.")
    ] = None,
    step: Annotated[
        float | None, typer.Option(help="Seconds between classifications; default a quarter window.")
    ] = None,
    signature: Annotated[Path | None, typer.Option(help="JSON that pairs a streaming model's state tensors.")] = None,
    group: Annotated[list[str] | None, typer.Option(help="NAME=LABEL,LABEL: classes to add up under one name.")] = None,
    size: Annotated[int | None, typer.Option(help="Frame side in pixels, if the graph leaves it open.")] = None,
    resize: Annotated[
        Literal["crop", "stretch"], typer.Option(help="Centre crop of the scaled frame, or the whole frame squeezed.")
    ] = "crop",
    scores: Annotated[str | None, typer.Option(help="The output with the scores, if several could be it.")] = None,
    layout: Annotated[str | None, typer.Option(help="Input axes such as NCTHW, if the shape does not tell.")] = None,
    bgr: Annotated[bool, typer.Option("--bgr", help="The model wants blue first.")] = False,
    scale: Annotated[float | None, typer.Option(help="Factor on bytes for a float input; default 1/255.")] = None,
    mean: Annotated[str, typer.Option(help="Subtracted after scaling: one number, or three by commas.")] = "0",
    std: Annotated[str, typer.Option(help="Divided by after that: one number, or three by commas.")] = "1",
    activation: Annotated[
        Literal["auto", "none", "softmax", "sigmoid"], typer.Option(help="What makes the scores probabilities.")
    ] = "auto",
    threshold: Annotated[float, typer.Option(help="Mean probability above which a class is active.")] = 0.3,
    licence: Annotated[str, typer.Option(help="Licence of the weights.")] = "unknown",
    out: Annotated[Path | None, typer.Option(help="The bundle's folder; default TAL_HOME/models/NAME.")] = None,
) -> None:
    """Makes a localizer of an ONNX action classifier: windows over the video, class activations, segments."""
    from exporters import onnx_classifier, side_files  # noqa: PLC0415  (doors import exporters inside the command that needs them)

    folder = out or settings.read().models_folder / name
    known = side_files.read_labels(_read_text(labels))
    wanted = onnx_classifier.ClassifierImport(
        name=name,
        labels=known,
        licence=licence,
        provenance=f"imported from {graph.name}",
        label_groups=_parse_groups(group or [], known),
        fps=fps,
        window_s=window,
        step_s=step,
        size_px=size,
        resize=resize,
        layout=layout,
        channel_order="bgr" if bgr else "rgb",
        scale=scale,
        mean=_numbers(mean, "mean"),
        std=_numbers(std, "std"),
        scores=scores,
        activation=activation,
        threshold=threshold,
        signature=side_files.read_signature(_read_text(signature)) if signature else None,
    )
    bundle = onnx_classifier.wrap(_read_bytes(graph), wanted, folder)
    stream = bundle.manifest.streams[0]
    _complain(
        f"{folder}: {len(bundle.manifest.segment_labels)} labels, {stream.clip_frames} frames at "
        f"{bundle.manifest.grid.fps} per second every {bundle.manifest.grid.stride_frames} frames, "
        f"scores: {stream.outputs.score_activation}"
    )


@app.command()
def export(
    recipe: Annotated[Path, typer.Argument(help="JSON: networks, weights and labels; docs/export.md explains it.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The bundle's folder; default TAL_HOME/models/NAME.")
    ] = None,
    form: Annotated[
        Literal["onnx", "torchscript"],
        typer.Option("--format", "-f", help="TorchScript runs only where it is allowed."),
    ] = "onnx",
    sample: Annotated[
        list[Path] | None, typer.Option(help="A video, or features in a .npy file, to compare answers on; repeatable.")
    ] = None,
) -> None:
    """Makes a bundle of PyTorch networks, after holding every exported graph against the network it comes from."""
    recipes, exporting = _exporters()
    wanted = recipes.read(recipe)
    folder = out or settings.read().models_folder / wanted.name
    bundle = exporting.export(wanted, folder, origin=recipe.parent, form=form, samples=sample or (), say=_complain)
    _complain(f"{folder}: sha256 {bundle.sha256}")
    if form == "torchscript":
        _complain(f"to run it: TAL_ALLOW_TORCH_BUNDLES=1 TAL_TRUSTED_TORCH_BUNDLES={bundle.sha256}")


@app.command()
def doctor() -> None:
    """What is installed, what runs models, how videos are read, and how much room there is."""
    from service import doctor as checkup  # noqa: PLC0415  (it loads FFmpeg, which no other command does here)

    report = checkup.examine(settings.read())
    for line in report:
        typer.echo(f"{line.what:<20} {line.found}")
    problems = [line for line in report if not line.sound]
    if problems:
        _complain(f"{len(problems)} problem(s): {', '.join(line.what for line in problems)}")
        raise typer.Exit(SOME_FAILED)


def _exporters() -> tuple[ModuleType, ModuleType]:
    """What turns networks into bundles; serving installs no torch, so it may be missing."""
    try:
        from exporters import export, recipe  # noqa: PLC0415  (doors import exporters inside the command that needs them)
    except ModuleNotFoundError as error:
        raise InvalidOptions(f"tal export needs {error.name}, which is not installed: pip install '.[train]'") from None
    return recipe, export


def _read_bundle(folder: Path) -> bundles.Bundle:
    try:
        return bundles.read(folder)
    except BundleError as error:
        raise InvalidBundle(str(error)) from error


def _split_labels(given: list[str] | None, known: tuple[str, ...]) -> tuple[str, ...] | None:
    if given is None:
        return None
    labels = tuple(label for value in given for label in _list(value, known))
    if not labels:
        raise InvalidOptions(f"labels {given} name none; leave the option out to get all of them")
    return labels


def _extras(given: list[str] | None) -> tuple[Extra, ...]:
    """They are held against the list of extras with all other options."""
    return cast("tuple[Extra, ...]", tuple(given or ()))


def _list(text: str, known: tuple[str, ...]) -> list[str]:
    """A text that is a label stays whole, commas and all; any other is a list."""
    return [text] if text in known else [part.strip() for part in text.split(",") if part.strip()]


def _parse_groups(texts: list[str], known: tuple[str, ...]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """NAME=LABEL,LABEL; the same name again adds to its group."""
    groups: dict[str, list[str]] = {}
    for text in texts:
        label, separator, members = text.partition("=")
        if not separator or not label.strip() or not _list(members, known):
            raise InvalidOptions(f"group {text!r}: NAME=LABEL,LABEL is needed")
        groups.setdefault(label.strip(), []).extend(_list(members, known))
    return tuple((label, tuple(members)) for label, members in groups.items())


def _numbers(text: str, what: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InvalidOptions(f"{what} {text!r}: numbers separated by commas are needed") from None


def _read_text(path: Path) -> str:
    try:
        return _read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidOptions(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from None


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidOptions(f"{path}: {error.strerror or error}") from None


def _names(files: list[Path]) -> list[str]:
    """What videos are called in the answer: their file names, or as given where those are not distinct."""
    names = [path.name for path in files]
    return names if len(set(names)) == len(names) else [str(path) for path in files]


def _complain(message: str) -> None:
    typer.echo(message, err=True)


@contextmanager
def _progress() -> Iterator[Callable[[str], OnProgress]]:
    """A bar on a terminal; in a pipe, silence."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:

        def track(name: str) -> OnProgress:
            task = progress.add_task(name, total=None)

            def show(step: localization.Progress) -> None:
                # Each stage counts in a unit of its own, and decoding is what takes time.
                if step.stage == "decode":
                    progress.update(task, completed=step.done, total=step.total)

            return show

        yield track
