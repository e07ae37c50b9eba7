"""`tal dataset` tells what is there, what was mended, and what is wrong."""

from __future__ import annotations

import json
from typing import get_type_hints

import pytest
import typer
from typer.testing import CliRunner

from service.commands.dataset import dataset
from service.errors import InvalidOptions
from tests.training.datasets import public_files
from training.datasets.catalog import READERS, read


@pytest.fixture
def run():
    app = typer.Typer()
    app.command()(dataset)

    def call(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return call


def test_counts_and_notes_are_printed(run, tmp_path):
    result = run("charades", public_files.charades(tmp_path), "--subset", "train")
    assert result.exit_code == 0
    for part in (
        "charades, scored as charades",
        "videos      3, 1 of them without an instance",
        "instances   3 of 2 labels of 2",
        "hours       0.02",
        "per video   1.00 instances on average",
        "lengths     9.63 s on average",
        "note: 1 segments end before they start; left out: CCCC3 [9, 8]",
    ):
        assert part in result.stdout


def test_a_data_set_without_durations_says_so(run, tmp_path):
    result = run("thumos14", public_files.thumos14(tmp_path))
    assert "hours       0.00; 3 videos do not say" in result.stdout


def test_a_data_set_without_instances_is_no_error(run, tmp_path):
    path = public_files.document(tmp_path / "own.json", {"database": {"a": public_files.video(9.0)}})
    result = run("json", path)
    assert result.exit_code == 0
    assert "lengths     none" in result.stdout


def test_problems_of_the_files_go_to_stderr_with_status_1(run, tmp_path):
    result = run("thumos14", public_files.text(tmp_path / "Diving_val.txt", "video_validation_1 1").parent)
    assert result.exit_code == 1
    assert "Diving_val.txt, line 1" in result.stderr
    assert result.stdout == ""


def test_missing_features_are_problems_and_spare_ones_a_note(run, tmp_path):
    features = tmp_path / "features"
    features.mkdir()
    for name in ("AAAA1.npy", "EEEE5.npy"):
        (features / name).touch()
    target = tmp_path / "out.json"
    result = run("charades", public_files.charades(tmp_path), "--features", features, "--to", target)
    assert result.exit_code == 1
    assert "note: 1 feature files belong to no annotated video: EEEE5" in result.stdout
    assert result.stderr.splitlines() == [f"problem: video '{v}': no feature file" for v in ("BBBB2", "CCCC3", "DDDD4")]
    assert not target.exists()


def test_any_form_is_turned_into_plain_json(run, tmp_path):
    target = tmp_path / "out.json"
    folder = public_files.epic_kitchens(tmp_path)
    assert run("epic-kitchens-100", folder, "--task", "noun", "--to", target).exit_code == 0
    assert json.loads(target.read_text(encoding="utf-8"))["labels"] == ["plate", "cupboard"]
    assert read("json", target, "validation").ground_truth.videos == ("P02_01",)


def test_names_are_those_of_the_catalogue_and_others_are_misuse(run, tmp_path):
    told = get_type_hints(dataset, include_extras=True)["name"].__metadata__[0].help
    assert all(name in told for name in READERS)
    assert isinstance(run("kinetics", tmp_path).exception, InvalidOptions)
    assert isinstance(
        run("charades", public_files.charades(tmp_path), "--to", tmp_path / "no" / "f").exception, InvalidOptions
    )
