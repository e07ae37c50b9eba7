"""A recipe in; the half of a bundle that stands before its detector out: how snippets and their features are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from exporters import networks
from exporters.exportable import Exportable, from_backbone
from exporters.recipe import GridRecipe, Recipe, StreamRecipe
from models import bundle as bundles
from models.backbones.backbone import Backbone
from models.bundle import Bundle
from models.manifest import Stream
from service.errors import InvalidOptions
from service.runtime.onnx_session import OnnxOptions, OnnxSession

ROOM_AROUND_CROP = 8 / 7  # published backbones scale the short side to 256 and cut 224 out of it
ONNX = ".onnx"
CPU = OnnxOptions(device="cpu")


@dataclass(frozen=True)
class Front:
    """`streams` and `grid` as a manifest says them, `channels` of the features that all streams give together.

    Of `graphs`, by file name, those of networks are to be exported; `ready` ones are another bundle's.
    """

    streams: Sequence[Mapping[str, Any]]
    grid: Mapping[str, Any]
    channels: int
    graphs: Mapping[str, Exportable]
    ready: Mapping[str, bytes]
    origin: str = ""


def front(recipe: Recipe, origin: Path, suffix: str) -> Front:
    if recipe.features_of is not None:
        return _as_bundle(origin / recipe.features_of)
    assert recipe.streams is not None  # noqa: S101  (the recipe was checked)
    assert recipe.grid is not None  # noqa: S101
    return _of_networks(recipe, recipe.streams, recipe.grid, origin, suffix)


def _as_bundle(folder: Path) -> Front:
    """Graphs that a file could run code in are not taken over: whoever trusts one exports its network."""
    bundle = bundles.read(folder)
    manifest = bundle.manifest
    foreign = [stream.graph for stream in manifest.streams if not stream.graph.endswith(ONNX)]
    if foreign:
        raise InvalidOptions(f"features_of: {folder}: graph {foreign[0]!r} is none of ONNX, so it cannot be taken over")
    ready = {stream.graph: bundle.read_file(stream.graph) for stream in manifest.streams}
    channels = sum(_channels(stream, ready[stream.graph], bundle) for stream in manifest.streams)
    return Front(
        [stream.model_dump(mode="json") for stream in manifest.streams],
        manifest.grid.model_dump(mode="json"),
        channels,
        {},
        ready,
        f"features as {manifest.name} {manifest.version} makes them: {manifest.provenance}",
    )


def _channels(stream: Stream, content: bytes, bundle: Bundle) -> int:
    session = OnnxSession(content, CPU, name=stream.graph)
    found = {spec.name: spec.shape[-1] for spec in session.outputs if spec.shape}
    channels = found.get(stream.outputs.features or "")
    if channels is None:
        raise InvalidOptions(
            f"features_of: {bundle.folder}: stream {stream.name!r} gives no features of a known number of channels"
        )
    return channels


def _of_networks(recipe: Recipe, streams: Sequence[StreamRecipe], grid: GridRecipe, origin: Path, suffix: str) -> Front:
    # Class scores are of use only where no detector follows; they are the labels then.
    known = {"num_classes": len(recipe.labels)} if recipe.detector is None else {}
    output: Literal["features", "scores"] = "features" if recipe.detector else "scores"
    backbones = [networks.backbone(stream, origin, **known) for stream in streams]
    names = [f"features.{stream.name}{suffix}" for stream in streams]
    described = [
        _stream(stream, backbone, name, output)
        for stream, backbone, name in zip(streams, backbones, names, strict=True)
    ]
    told = grid.model_dump()
    if told["offset_frames"] is None:
        told["offset_frames"] = max((one["clip_frames"] - 1) * one["frame_step"] + 1 for one in described) / 2
    return Front(
        described,
        told,
        sum(backbone.feature_channels for backbone in backbones),
        {name: from_backbone(backbone, output) for name, backbone in zip(names, backbones, strict=True)},
        {},
    )


def _stream(
    stream: StreamRecipe, network: Backbone, graph: str, output: Literal["features", "scores"]
) -> dict[str, Any]:
    clips = network.clip_format
    side_px = clips.size_px
    resize = stream.resize.model_dump() if stream.resize else None
    described: dict[str, Any] = {
        "name": stream.name,
        "kind": clips.kind,
        "graph": graph,
        "clip_frames": clips.clip_frames,
        "frame_step": stream.frame_step,
        "first_frame": stream.first_frame,
        "resize": resize or {"mode": "short_side", "size_px": round(side_px * ROOM_AROUND_CROP)},
        "crop_px": list(stream.crop_px or (side_px, side_px)),
        "input": {"name": "clips"},
        "outputs": {"features": "features"},
        "fusion_weight": stream.fusion_weight,
    }
    if output == "scores":
        described["outputs"] = {"scores": "scores", "score_activation": "softmax"}
    if clips.kind == "flow":
        flow = stream.flow.model_dump() if stream.flow else {"clip_px": clips.scale.clip_px}
        described["flow"] = flow
    elif stream.flow is not None:
        raise InvalidOptions(f"stream {stream.name!r}: flow is for a network of kind flow; {stream.network} sees RGB")
    return described
