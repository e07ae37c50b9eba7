"""Plots of a diagnosis: files that hold pictures, and what is said where none can be drawn."""

import sys

import cv2
import pytest

from service.errors import InvalidOptions
from tests.training.evaluation import scenes
from training.evaluation.diagnosis import diagnose
from training.evaluation.plots import write_plots
from training.evaluation.protocols import Protocol

HALF = Protocol("half", (0.5,))


@pytest.fixture
def diagnosis():
    truth = scenes.ground_truth([(0, 0, 10, 0), (0, 20, 60, 0)])
    return diagnose(truth, scenes.predictions([(0, 0, 10, 0, 0.9), (1, 0, 10, 0, 0.8)]), HALF)


def test_three_plots_are_drawn_into_a_new_folder(tmp_path, diagnosis):
    paths = write_plots(diagnosis, tmp_path / "new" / "plots")
    assert [path.name for path in paths] == ["false_positives.png", "sensitivity.png", "false_negatives.png"]
    for path in paths:
        picture = cv2.imread(str(path))
        assert picture.shape == (480, 1200, 3)
        assert picture.min() < 128 < picture.max()


def test_a_diagnosis_without_predictions_is_drawn_too(tmp_path):
    nothing = diagnose(scenes.ground_truth([(0, 0, 10, 0)]), scenes.predictions([]), HALF)
    assert all(path.stat().st_size for path in write_plots(nothing, tmp_path))


def test_a_folder_that_cannot_be_made_is_told(tmp_path, diagnosis):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidOptions, match="plots cannot be written to"):
        write_plots(diagnosis, tmp_path / "file")


def test_without_matplotlib_the_line_that_installs_it_is_told(tmp_path, diagnosis, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InvalidOptions, match=r"needs matplotlib: pip install '\.\[train\]'"):
        write_plots(diagnosis, tmp_path / "plots")
    assert not (tmp_path / "plots").exists()
