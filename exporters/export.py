"""A recipe in, a bundle on disk out: networks are built, exported, held against themselves, and described."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from exporters import front as fronts
from exporters import networks, parity
from exporters.exportable import Exportable, from_classifier, from_detector
from exporters.front import CPU, Front
from exporters.parity import EagerSession, Gap, Twins
from exporters.recipe import ClassifierRecipe, DetectorRecipe, Recipe
from exporters.to_onnx import to_onnx
from exporters.to_torchscript import to_torchscript
from models import bundle as bundles
from models.bundle import Bundle, BundleError
from models.catalog import DETECTORS
from models.classifiers.video_classifier import VideoClassifier
from models.detectors.detector import OUTPUTS, Detector, Lengths
from models.manifest import Whole, Windowing
from models.postprocessing import Fusion
from service.errors import InvalidBundle, InvalidOptions
from service.runtime import loaded_model
from service.runtime.loaded_model import LoadedModel
from service.runtime.onnx_session import OnnxSession
from service.runtime.session import Session
from service.runtime.torchscript_session import TorchScriptSession

Format = Literal["onnx", "torchscript"]

SUFFIXES: Mapping[Format, str] = {"onnx": ".onnx", "torchscript": ".pt"}
EXPORTERS: Mapping[Format, Callable[[Exportable], bytes]] = {"onnx": to_onnx, "torchscript": to_torchscript}
MIB = 1024 * 1024


@dataclass(frozen=True)
class Plan:
    """What is to be exported, the manifest less what only files and parity tell, and the bundle run by its networks."""

    front: Front
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
        parity.check_samples(samples, planned.front.channels if recipe.detector else None)
        files = dict(planned.front.ready)
        sessions = ready_sessions(planned.front)
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
    before = fronts.front(recipe, origin, SUFFIXES[form])
    graphs = dict(before.graphs)
    detector = _detector(recipe, before.channels, origin) if recipe.detector else None
    if recipe.detector is not None and detector is not None:
        name = _detector_graph(form)
        if name in before.ready:
            raise InvalidOptions(f"features_of: a stream's graph there is called {name}, as the detector's will be")
        graphs[name] = from_detector(detector, DETECTORS[recipe.detector.network].output_kind)
    if recipe.classifier is not None:
        name = _classifier_graph(form)
        if name in before.ready:
            raise InvalidOptions(f"features_of: a stream's graph there is called {name}, as the classifier's will be")
        graphs[name] = from_classifier(_classifier(recipe, recipe.classifier, before.channels, origin))
    draft = {**_manifest(recipe, before, detector, form), "metrics": _metrics(recipe.metrics, origin)}
    manifest = bundles.parse_manifest(bundles.compose(draft, dict.fromkeys([*before.ready, *graphs], b"")))
    if detector is not None and manifest.windowing is not None:
        _check_windowing(manifest.windowing, detector.config.lengths)
    eager: dict[str, Session] = {name: EagerSession(graph) for name, graph in graphs.items()}
    joined = loaded_model.join(Bundle(origin, manifest, ""), ready_sessions(before) | eager, CPU)
    return Plan(before, graphs, draft, joined)


def ready_sessions(before: Front) -> dict[str, Session]:
    return {name: open_session(content, "onnx", name) for name, content in before.ready.items()}


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


def _detector(recipe: Recipe, channels: int, origin: Path) -> Detector:
    assert recipe.detector is not None  # noqa: S101  (the caller asked)
    known: dict[str, Any] = {"input_channels": (channels,)}
    entry = DETECTORS.get(recipe.detector.network)
    if entry is not None and recipe.detector.layout is None:
        # A preset that finds actions of any class stays so; the others tell apart what the labels name.
        preset = networks.configure(entry, recipe.detector, {})
        known |= {} if preset.num_classes == 1 else {"num_classes": len(recipe.labels)}
    network = networks.detector(recipe.detector, origin, **known)
    found = sum(network.config.input_channels)
    if found != channels:
        raise InvalidOptions(f"detector takes {found} feature channels, the streams give {channels}")
    if recipe.classifier is None and network.config.num_classes == 1 < len(recipe.labels):
        raise InvalidOptions(
            f"detector finds actions of any class, and labels has {len(recipe.labels)} names: give one label, or a "
            "classifier that names the class"
        )
    return network


def _classifier(recipe: Recipe, wanted: ClassifierRecipe, channels: int, origin: Path) -> VideoClassifier:
    return networks.classifier(wanted, origin, input_channels=channels, num_classes=len(recipe.labels))


def _manifest(recipe: Recipe, before: Front, detector: Detector | None, form: Format) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": recipe.name,
        "version": recipe.version,
        "licence": recipe.licence,
        "provenance": _provenance(recipe, before),
        "labels": list(recipe.labels),
        "streams": list(before.streams),
        "grid": dict(before.grid),
        "output_kind": "activations",
        "postprocessing": recipe.postprocessing,
    }
    if recipe.detector is not None and detector is not None:
        entry = DETECTORS[recipe.detector.network]
        document |= {
            "output_kind": entry.output_kind,
            "windowing": recipe.windowing or entry.windowing(detector.config.lengths),
            "detector": {"graph": _detector_graph(form), **{name: name for name in OUTPUTS[entry.output_kind]}},
            "postprocessing": recipe.postprocessing or entry.rules[_rules(recipe.detector)](),
        }
    if recipe.classifier is not None:
        document["classifier"] = {"graph": _classifier_graph(form)}
        document["postprocessing"] = _fused(document["postprocessing"], recipe.classifier.fusion)
    return document


def _fused(presets: Mapping[str, Any], fusion: Fusion) -> dict[str, Any]:
    """Presets that say nothing of fusion, with this one."""
    told = fusion.model_dump(mode="json")
    return {
        name: rules if rules is None or "fusion" in rules else {**rules, "fusion": told}
        for name, rules in presets.items()
    }


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


def _provenance(recipe: Recipe, before: Front) -> str:
    parts = [*(recipe.streams or ()), *(part for part in (recipe.detector, recipe.classifier) if part)]
    random = [part.network for part in parts if part.weights is None]
    told = recipe.provenance + (f" (random weights: {', '.join(random)})" if random else "")
    return f"{told}; {before.origin}" if before.origin else told


def _told(gaps: Mapping[str, tuple[Gap, ...]], form: Format, compared: int, furthest_s: float) -> dict[str, float]:
    """The manifest's `parity`: differences relative to the largest value of each output, and of segments in seconds."""
    tensors = {
        f"{name.removesuffix(SUFFIXES[form])}.{gap.output}": gap.relative
        for name, found in gaps.items()
        for gap in found
    }
    return {**tensors, "segments_compared": float(compared), "segments_s": furthest_s}


def _detector_graph(form: Format) -> str:
    return f"detector{SUFFIXES[form]}"


def _classifier_graph(form: Format) -> str:
    return f"classifier{SUFFIXES[form]}"
