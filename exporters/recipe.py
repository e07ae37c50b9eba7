"""A recipe in JSON in, one frozen `Recipe` out: which networks make a bundle, and what its manifest says beside them.

`docs/export.md` explains every key. What a recipe leaves out comes from the presets in `models/catalog.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from models.bundle import explain
from models.manifest import NAME, VERSION, Flow, Resize
from models.postprocessing import Fusion
from models.schema import Count, Label, Part, Positive, Size
from service.errors import InvalidOptions

WeightsFile = Annotated[str, Field(min_length=1)]


class NetworkRecipe(Part):
    """A network of the catalogue, or a published one; without weights it gets random ones, drawn from `seed`.

    Several files of weights are one network's parts: what a file is called here stands before its weights' names.
    """

    network: str
    preset: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    layout: str | None = None
    config: dict[str, Any] | None = None
    weights: WeightsFile | Annotated[dict[Label, WeightsFile], Field(min_length=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0

    @model_validator(mode="after")
    def _ours_or_published(self) -> NetworkRecipe:
        if (self.layout is None) != (self.config is None):
            raise ValueError("layout and config go together: they are the published implementation's")
        if self.layout is not None and self.weights is None:
            raise ValueError(f"layout {self.layout!r} says how published weights are named; weights names no file")
        if self.layout is not None and (self.preset is not None or self.options):
            raise ValueError("options are of our own presets; with layout, config describes the network")
        return self


class StreamRecipe(NetworkRecipe):
    """A backbone and how its clips are cut; the same keys as in a manifest's stream."""

    name: Annotated[str, Field(pattern=NAME)]
    frame_step: Count = 1
    first_frame: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    resize: Resize | None = None
    crop_px: Size | None = None
    flow: Flow | None = None
    fusion_weight: Positive = 1.0


class DetectorRecipe(NetworkRecipe):
    """`rules` names the preset whose post-processing a published detector takes."""

    rules: str | None = None

    @model_validator(mode="after")
    def _rules_are_an_own_preset(self) -> DetectorRecipe:
        if self.layout is not None and self.rules is None:
            raise ValueError("published weights do not say how they are served: rules names the preset that does")
        return self


class ClassifierRecipe(NetworkRecipe):
    """A classifier of whole videos; `fusion` says how its scores and the detector's join where the detector's rules say
    nothing of it."""

    fusion: Fusion = Fusion()

    @model_validator(mode="after")
    def _is_an_own_one(self) -> ClassifierRecipe:
        if self.layout is not None:
            raise ValueError("no published form of a classifier is known: layout and config have no meaning here")
        return self


class GridRecipe(Part):
    """`offset_frames` left out is half of the longest clip."""

    fps: Annotated[float, Field(gt=0, le=1000)] | str = "native"
    stride_frames: Count
    offset_frames: float | None = None
    tail: str = "drop"


class Recipe(Part):
    """Features are made by `streams` on `grid`, or as the bundle `features_of` makes them, whose graphs are taken."""

    name: Annotated[str, Field(pattern=NAME)]
    version: Annotated[str, Field(pattern=VERSION)] = "1.0.0"
    licence: str
    provenance: str
    labels: Annotated[tuple[Label, ...], Field(min_length=1)]
    streams: Annotated[tuple[StreamRecipe, ...], Field(min_length=1)] | None = None
    grid: GridRecipe | None = None
    features_of: Annotated[str, Field(min_length=1)] | None = None
    detector: DetectorRecipe | None = None
    classifier: ClassifierRecipe | None = None
    windowing: dict[str, Any] | None = None
    postprocessing: dict[str, Any] | None = None
    metrics: dict[str, float] | Annotated[str, Field(min_length=1)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _features_come_one_way(self) -> Recipe:
        given = [name for name in ("streams", "grid", "features_of") if getattr(self, name) is not None]
        if given not in (["streams", "grid"], ["features_of"]):
            raise ValueError(
                f"{', '.join(given) or 'neither streams nor features_of'} given: features are made by streams and grid "
                "together, or as the bundle features_of makes them"
            )
        if self.features_of is not None and self.detector is None:
            raise ValueError("features_of gives features to a detector, and the recipe names none")
        return self

    @model_validator(mode="after")
    def _scores_need_rules(self) -> Recipe:
        if self.detector is None and self.postprocessing is None:
            raise ValueError("without a detector, postprocessing must say how class scores become segments")
        if self.detector is None and self.windowing is not None:
            raise ValueError("windowing is for a detector, and the recipe names none")
        if self.detector is None and self.classifier is not None:
            raise ValueError("classifier names what a detector finds, and the recipe names no detector")
        return self


def read(path: Path) -> Recipe:
    try:
        return Recipe.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidOptions(f"{path}: {error.strerror or error}") from None
    except ValidationError as error:
        raise InvalidOptions(f"{path}: {explain(error, 'recipe')}") from None
