"""The first command of a newcomer: a new video, what the shipped model finds in it, and a picture of both."""

from pathlib import Path

import cv2
import pytest
from typer.testing import CliRunner

from service.cli import app
from service.configured import SHIPPED_FOLDER
from service.pipeline import video

pytestmark = pytest.mark.slow


def run(out: Path, *options: str) -> str:
    answer = CliRunner().invoke(app, ["demo", "--out", str(out), *options])
    assert answer.exit_code == 0, answer.output
    return answer.output


def test_the_shipped_model_finds_most_of_what_happens(tmp_path: Path) -> None:
    output = run(tmp_path, "--seed", "4242")
    rows = [line for line in output.splitlines() if "–" in line and not line.startswith(("–", "rendering"))]
    found = [row for row in rows if row.rstrip()[-4:].startswith(("0.", "1."))]
    assert len(rows) >= 4
    assert len(found) >= 0.5 * len(rows), output
    picture = cv2.imread(str(tmp_path / "timeline.png"))
    assert picture is not None
    assert picture.shape[1] > 800
    films = [path for path in tmp_path.iterdir() if path.suffix != ".png"]
    assert 15 <= video.probe(films[0]).duration_s <= 45


def test_the_shipped_bundle_is_small_and_says_where_it_comes_from() -> None:
    from models import bundle as bundles

    shipped = bundles.read(SHIPPED_FOLDER / "marionette")
    assert sum(spec.size_bytes for spec in shipped.manifest.files.values()) <= 12 * 1024 * 1024
    assert "make bundle" in shipped.manifest.provenance
    assert shipped.manifest.metrics["average_map"] >= 0.7
