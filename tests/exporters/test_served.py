"""A bundle of every detector of the catalogue, in one service; what each answers to the same clip over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from exporters.export import export
from exporters.recipe import Recipe
from models.catalog import DETECTORS
from service.client import Ask, Client
from service.commands.local_service import local_service
from service.localization import DetectOptions
from tests.support import videos

pytestmark = pytest.mark.timeout(900)  # the first test waits for all bundles

SHIPPED = Path(__file__).parents[2] / "models" / "bundles" / "marionette"
LABELS = ("jump", "throw", "run")
LENGTH_S = 20
# Graphs of many levels take long to export.
TWO_LEVELS = {"windows": [9, 9]}
OPTIONS = {
    "actionformer": TWO_LEVELS,
    "asl": TWO_LEVELS,
    "amnet": TWO_LEVELS,
    "react": {"decoder_layers": 2},
    "afsd": {"levels": 2, "distance_units_frames": [4.0, 8.0]},
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    home = tmp_path_factory.mktemp("home")
    for name in DETECTORS:
        recipe = {
            "name": name,
            "licence": "Apache-2.0",
            "provenance": "made by the tests",
            "labels": LABELS,
            "features_of": str(SHIPPED),
            "detector": {"network": name, "preset": "compact", "options": OPTIONS.get(name, {})},
        }
        if DETECTORS[name].presets["compact"]().num_classes == 1:  # something else must name what it finds
            recipe["classifier"] = {"network": "attention", "preset": "many"}
        export(Recipe.model_validate_json(json.dumps(recipe)), home / "models" / name, origin=home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAL_HOME", str(home))
        with local_service({}) as url, Client(url) as client:
            yield client


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def moving(t: float) -> np.ndarray:
        picture = np.zeros((48, 64, 1), np.uint8)
        picture[10:30, int(40 * t) % 60 :] = 200
        return picture

    return videos.write(tmp_path_factory.mktemp("clip") / "clip.mp4", moving, duration_s=LENGTH_S)


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_answers_over_http(service: Client, clip: Path, name: str) -> None:
    """Random weights find nothing that means anything; whatever they find is in the clip, and named."""
    found = service.detect(clip, Ask(model=name, options=DetectOptions(min_score=0, top_k=20)))
    assert found.model.name == name
    assert 0 < len(found.segments) <= 20
    for segment in found.segments:
        assert 0 <= segment.start_s < segment.end_s <= LENGTH_S + 0.1
        assert segment.label in LABELS
        assert 0 <= segment.score <= 1
