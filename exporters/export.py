"""A recipe in, a bundle on disk out: networks are built, exported, held against themselves, and described."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from exporters import networks, parity
from exporters.exportable import Exportable, from_backbone, from_detector
from exporters.parity import EagerSession, Gap, Twins
from exporters.recipe import DetectorRecipe, Recipe, StreamRecipe
from exporters.to_onnx import to_onnx
from exporters.to_torchscript import to_torchscript
from models import bundle as bundles
from models.backbones.backbone import Backbone
from models.bundle import Bundle, BundleError
from models.catalog import DETECTORS
from models.detectors.detector import Detector, Lengths
from models.manifest import Whole, Windowing
from service.errors import InvalidBundle, InvalidOptions
from service.runtime import loaded_model
from service.runtime.loaded_model import LoadedModel
from service.runtime.onnx_session import OnnxOptions, OnnxSession
from service.runtime.session import Session
from service.runtime.torchscript_session import TorchScriptSession

Format = Literal["onnx", "torchscript"]

SUFFIXES: Mapping[Format, str] = {"onnx": ".onnx", "torchscript": ".pt"}
EXPORTERS: Mapping[Format, Callable[[Exportable], bytes]] = {"onnx": to_onnx, "torchscript": to_torchscript}
CPU = OnnxOptions(device="cpu")
MIB = 1024 * 1024
ROOM_AROUND_CROP = 8 / 7  # published backbones scale the short side to 256 and cut 224 out of it


@dataclass(frozen=True)
class Plan:
    """What is to be exported, the manifest less what only files and parity tell, and the bundle run by its networks."""

    backbones: Mapping[str, Backbone]
    graphs: Mapping[str, Exportable]
    draft: Mapping[str, Any]
    eager: LoadedModel


def export(
    recipe: Recipe,
    folder: Path,
    *,
    origin: Path,
    form: Format = "onnx",
    samples: Sequence[Path] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Bundle:
    """Nothing is written unless every graph does what its network does.

    Weights are looked up from `origin`. `say` hears of each graph as it is done: a minute may pass.
    """
    try:
        bundles.check_free(folder)
        planned = plan(recipe, origin, form)
        parity.check_samples(samples, _channels(planned.backbones) if recipe.detector else None)
        files: dict[str, bytes] = {}
        sessions: dict[str, Session] = {}
        gaps: dict[str, tuple[Gap, ...]] = {}
        for name, graph in planned.graphs.items():
            files[name] = EXPORTERS[form](graph)
            sessions[name] = open_session(files[name], form, name)
            gaps[name] = parity.tensor_gaps(graph, sessions[name])
            told = ", ".join(f"{gap.output} within {gap.difference:.2g} of {gap.magnitude:.3g}" for gap in gaps[name])
            say(f"{name}: {len(files[name]) / MIB:.1f} MiB, {told}")
        twins = Twins(loaded_model.join(planned.eager.bundle, sessions, CPU), planned.eager)
        compared, furthest_s = parity.segment_gap(twins, samples)
        say(f"{compared} segments are the same, times within {furthest_s:.2g} s")
        if not compared:
            say("no segment came of random input, so none was compared: give a --sample that holds some")
        parities = _told(gaps, form, compared, furthest_s)
        return bundles.write(folder, {**planned.draft, "parity": parities}, files)
    except BundleError as error:
        raise InvalidBundle(str(error)) from error


def plan(recipe: Recipe, origin: Path, form: Format) -> Plan:
    """Everything that can be known, and refused, before the first graph is exported."""
    backbones = {stream.name: _backbone(stream, recipe, origin) for stream in recipe.streams}
    output: Literal["features", "scores"] = "features" if recipe.detector else "scores"
    graphs = {_stream_graph(name, form): from_backbone(network, output) for name, network in backbones.items()}
    detector = _detector(recipe, backbones, origin) if recipe.detector else None
    if detector is not None:
        graphs[_detector_graph(form)] = from_detector(detector)
    draft = {**_manifest(recipe, backbones, detector, form), "metrics": _metrics(recipe.metrics, origin)}
    manifest = bundles.parse_manifest(bundles.compose(draft, dict.fromkeys(graphs, b"")))
    if detector is not None and manifest.windowing is not None:
        _check_windowing(manifest.windowing, detector.config.lengths)
    eager: dict[str, Session] = {name: EagerSession(graph) for name, graph in graphs.items()}
    return Plan(backbones, graphs, draft, loaded_model.join(Bundle(origin, manifest, ""), eager, CPU))


def _check_windowing(windowing: Windowing, lengths: Lengths) -> None:
    given = (
        [windowing.multiple_of, windowing.train_length, windowing.beyond_multiple_of, windowing.max_length]
        if isinstance(windowing, Whole)
        else [windowing.length]
    )
    known = [length for length in given if length is not None]
    if lengths.fixed is None and any(length % lengths.multiple_of for length in known):
        raise InvalidOptions(
            f"windowing gives windows of {', '.join(map(str, known))} steps; the detector takes multiples of "
            f"{lengths.multiple_of}"
        )


def open_session(content: bytes, form: Format, name: str) -> Session:
    return OnnxSession(content, CPU, name=name) if form == "onnx" else TorchScriptSession(content, CPU, name=name)


def _backbone(stream: StreamRecipe, recipe: Recipe, origin: Path) -> Backbone:
    # Class scores are of use only where no detector follows; they are the labels then.
    known = {"num_classes": len(recipe.labels)} if recipe.detector is None else {}
    return networks.backbone(stream, origin, **known)


def _detector(recipe: Recipe, backbones: Mapping[str, Backbone], origin: Path) -> Detector:
    assert recipe.detector is not None  # noqa: S101  (the caller asked)
    known: dict[str, Any] = {"input_channels": (_channels(backbones),)}
    entry = DETECTORS.get(recipe.detector.network)
    if entry is not None and recipe.detector.layout is None:
        # A preset that finds actions of any class stays so; the others tell apart what the labels name.
        preset = networks.configure(entry, recipe.detector, {})
        known |= {} if preset.num_classes == 1 else {"num_classes": len(recipe.labels)}
    network = networks.detector(recipe.detector, origin, **known)
    found, given = sum(network.config.input_channels), _channels(backbones)
    if found != given:
        raise InvalidOptions(f"detector takes {found} feature channels, the streams give {given}")
    if network.config.num_classes == 1 < len(recipe.labels):
        raise InvalidOptions(
            f"detector finds actions of any class, and labels has {len(recipe.labels)} names: give one label, since a "
            "recipe has no classifier that would name the class"
        )
    return network


def _channels(backbones: Mapping[str, Backbone]) -> int:
    return sum(network.feature_channels for network in backbones.values())


def _manifest(
    recipe: Recipe, backbones: Mapping[str, Backbone], detector: Detector | None, form: Format
) -> dict[str, Any]:
    streams = [_stream(stream, backbones[stream.name], recipe, form) for stream in recipe.streams]
    reach_frames = max((stream["clip_frames"] - 1) * stream["frame_step"] + 1 for stream in streams)
    grid = recipe.grid.model_dump()
    if grid["offset_frames"] is None:
        grid["offset_frames"] = reach_frames / 2
    document: dict[str, Any] = {
        "name": recipe.name,
        "version": recipe.version,
        "licence": recipe.licence,
        "provenance": _provenance(recipe),
        "labels": list(recipe.labels),
        "streams": streams,
        "grid": grid,
        "output_kind": "activations",
        "postprocessing": recipe.postprocessing,
    }
    if recipe.detector is not None and detector is not None:
        entry = DETECTORS[recipe.detector.network]
        document |= {
            "output_kind": entry.output_kind,
            "windowing": recipe.windowing or entry.windowing(detector.config.lengths),
            "detector": {"graph": _detector_graph(form), "groups": "groups"},
            "postprocessing": recipe.postprocessing or entry.rules[_rules(recipe.detector)](),
        }
    return document


def _metrics(given: dict[str, float] | str, origin: Path) -> dict[str, float]:
    """As the recipe says, or as the result of a training run that it names."""
    if not isinstance(given, str):
        return given
    try:
        result = json.loads((origin / given).read_bytes())
        return {"average_map": result["average"], **{f"map@{tiou}": share for tiou, share in result["mAP"].items()}}
    except OSError as error:
        raise InvalidOptions(f"metrics: {origin / given}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InvalidOptions(f"metrics: {origin / given} is no result.json of tal train (mAP and average)") from None


def _rules(detector: DetectorRecipe) -> str:
    """The preset whose post-processing is taken where the recipe gives none of its own."""
    known = DETECTORS[detector.network].rules
    name = detector.rules or detector.preset or next(iter(known))
    if name not in known:
        raise InvalidOptions(f"{detector.network} has no rules {name!r}; accepted are {', '.join(known)}")
    return name


def _stream(stream: StreamRecipe, network: Backbone, recipe: Recipe, form: Format) -> dict[str, Any]:
    clips = network.clip_format
    side_px = clips.size_px
    resize = stream.resize.model_dump() if stream.resize else None
    described: dict[str, Any] = {
        "name": stream.name,
        "kind": clips.kind,
        "graph": _stream_graph(stream.name, form),
        "clip_frames": clips.clip_frames,
        "frame_step": stream.frame_step,
        "first_frame": stream.first_frame,
        "resize": resize or {"mode": "short_side", "size_px": round(side_px * ROOM_AROUND_CROP)},
        "crop_px": list(stream.crop_px or (side_px, side_px)),
        "input": {"name": "clips"},
        "outputs": {"features": "features"},
        "fusion_weight": stream.fusion_weight,
    }
    if recipe.detector is None:
        described["outputs"] = {"scores": "scores", "score_activation": "softmax"}
    if clips.kind == "flow":
        flow = stream.flow.model_dump() if stream.flow else {"clip_px": clips.scale.clip_px}
        described["flow"] = flow
    elif stream.flow is not None:
        raise InvalidOptions(f"stream {stream.name!r}: flow is for a network of kind flow; {stream.network} sees RGB")
    return described


def _provenance(recipe: Recipe) -> str:
    parts = [*recipe.streams, *([recipe.detector] if recipe.detector else [])]
    random = [part.network for part in parts if part.weights is None]
    return recipe.provenance + (f" (random weights: {', '.join(random)})" if random else "")


def _told(gaps: Mapping[str, tuple[Gap, ...]], form: Format, compared: int, furthest_s: float) -> dict[str, float]:
    """The manifest's `parity`: differences relative to the largest value of each output, and of segments in seconds."""
    tensors = {
        f"{name.removesuffix(SUFFIXES[form])}.{gap.output}": gap.relative
        for name, found in gaps.items()
        for gap in found
    }
    return {**tensors, "segments_compared": float(compared), "segments_s": furthest_s}


def _stream_graph(name: str, form: Format) -> str:
    return f"features.{name}{SUFFIXES[form]}"


def _detector_graph(form: Format) -> str:
    return f"detector{SUFFIXES[form]}"
