"""The `tal` command: files and options in, segments on standard output, everything else on standard error."""

from __future__ import annotations

import json
import signal
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Annotated, Literal

import typer

from models import bundle as bundles
from models.bundle import BundleError
from service import settings
from service.commands import (
    batch,
    dataset,
    demo,
    detect,
    evaluate,
    extract,
    jobs,
    keys,
    motion,
    pretrain,
    serve,
    synth,
    train,
    worker,
)
from service.commands.detect import label_list
from service.configured import SHIPPED, find_model, onnx_options
from service.errors import InvalidBundle, InvalidOptions, TalError
from service.runtime import loaded_model

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


# Commands with a module of their own; those that make and measure models import what they need when they run.
for command in (
    detect.detect,
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


def _parse_groups(texts: list[str], known: tuple[str, ...]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """NAME=LABEL,LABEL; the same name again adds to its group."""
    groups: dict[str, list[str]] = {}
    for text in texts:
        label, separator, members = text.partition("=")
        if not separator or not label.strip() or not label_list(members, known):
            raise InvalidOptions(f"group {text!r}: NAME=LABEL,LABEL is needed")
        groups.setdefault(label.strip(), []).extend(label_list(members, known))
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


def _complain(message: str) -> None:
    typer.echo(message, err=True)
