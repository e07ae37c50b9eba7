"""`tal evaluate` as a user runs it: files and options in, figures on standard output, all problems in one message."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from service import formats
from service.commands.evaluate import evaluate
from service.errors import InvalidOptions
from service.localization import Localization, ModelInfo, Segment, VideoInfo
from training.evaluation.protocols import PROTOCOLS

AUTOLOC = [0.467, 0.417, 0.358, 0.290, 0.212, 0.134, 0.058, 0.016, 0.002]
NINE = ["0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9"]

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(evaluate)


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def problems(*arguments: object) -> str:
    error = run(*arguments).exception
    assert isinstance(error, InvalidOptions)
    return str(error)


def truth_entry(*annotations: tuple[float, float, str], subset: str = "test", duration: float = 100):
    items = [{"segment": [start, end], "label": label} for start, end, label in annotations]
    return {"subset": subset, "duration": duration, "annotations": items}


def item(start: float, end: float, label: str, score: float):
    return {"segment": [start, end], "label": label, "score": score}


@pytest.fixture
def files(tmp_path: Path):
    """Options that name a ground truth and predictions for it: run is found at 0.6, jump at 1, one more is wrong."""
    database = {
        "a": truth_entry((0, 10, "run"), (50, 60, "jump")),
        "b": truth_entry(),
        "c": truth_entry((0, 10, "run"), subset="train"),
    }
    results = {"a": [item(0, 6, "run", 0.9), item(50, 60, "jump", 0.8)], "b": [item(0, 6, "jump", 0.7)]}
    truth, found = tmp_path / "truth.json", tmp_path / "found.json"
    truth.write_text(json.dumps({"database": database}))
    found.write_text(json.dumps({"results": results}))
    return "--ground-truth", truth, "--predictions", found, "--subset", "test"


def figures(*arguments: object):
    done = run(*arguments, "--format", "json")
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_without_a_protocol_the_map_from_a_tenth_to_nine_tenths_is_printed(files):
    document = figures(*files)
    assert document == {
        "mAP": {tiou: 1.0 if float(tiou) <= 0.6 else 0.5 for tiou in NINE},
        "average": pytest.approx((6 * 1 + 3 * 0.5) / 9),
    }


def test_a_protocol_brings_its_thresholds_and_what_else_it_asks_for(files):
    activitynet = figures(*files, "--protocol", "activitynet")
    assert next(iter(activitynet["mAP"])) == "0.5"
    assert activitynet["AR"]["AUC"] > 0
    ego4d = figures(*files, "--protocol", "ego4d")
    assert ego4d["recall"]["1x"]["0.5"] == 1
    # THUMOS14 is strict: an overlap of exactly 0.6 is not enough there.
    assert figures(*files, "--protocol", "thumos14", "--tiou", "0.6")["mAP"] == {"0.6": 0.5}
    assert figures(*files, "--tiou", "0.6")["mAP"] == {"0.6": 1.0}


def test_thresholds_are_a_range_or_a_list(files):
    assert list(figures(*files, "--tiou", "0.3:0.7:0.2")["mAP"]) == ["0.3", "0.5", "0.7"]
    assert list(figures(*files, "--tiou", "0.5,0.75")["mAP"]) == ["0.5", "0.75"]
    assert list(figures(*files, "--protocol", "activitynet", "--tiou", "0.5")["mAP"]) == ["0.5"]


def test_classes_and_a_diagnosis_are_there_on_demand(files):
    document = figures(*files, "--tiou", "0.5,0.75", "--classes", "--diagnose")
    assert document["classes"] == {"jump": {"0.5": 1, "0.75": 1}, "run": {"0.5": 1, "0.75": 0}}
    # Of the first slice, jump is right at both thresholds and run at one.
    assert document["diagnosis"]["profile"][0]["true positive"] == 0.75
    assert document["diagnosis"]["profile"][0]["localization"] == 0.25
    assert document["diagnosis"]["missed"] == 0.25
    assert set(document["diagnosis"]["buckets"]) == {"coverage", "length_s", "instances"}


def test_buckets_follow_the_protocol_unless_they_are_named(files):
    def sizes(*more: str):
        buckets = figures(*files, "--diagnose", *more)["diagnosis"]["buckets"]["length_s"]
        return {bucket["name"]: bucket["instances"] for bucket in buckets if bucket["instances"]}

    assert sizes() == {"XS": 2}
    assert sizes("--protocol", "thumos14") == sizes("--buckets", "thumos14") == {"M": 2}
    assert sizes("--protocol", "thumos14", "--buckets", "activitynet") == {"XS": 2}


def test_a_table_is_for_people(files):
    done = run(*files, "--tiou", "0.5,0.75", "--classes", "--diagnose")
    assert done.exit_code == 0
    assert done.stdout.split("\n")[:4] == [
        "tIoU         0.5     0.75  average",
        "jump      100.00   100.00   100.00",
        "run       100.00     0.00    50.00",
        "mAP       100.00    50.00    75.00",
    ]
    assert "double detection" in done.stdout


def test_plots_are_drawn_and_named_on_standard_error(files, tmp_path):
    done = run(*files, "--tiou", "0.5", "--plots", tmp_path / "plots", "--format", "json")
    assert json.loads(done.stdout) == {"mAP": {"0.5": 1.0}, "average": 1.0}
    assert [line.split(":")[0] for line in done.stderr.split("\n")[:-1]] == [
        str(tmp_path / "plots" / f"{name}.png") for name in ("false_positives", "sensitivity", "false_negatives")
    ]
    assert len(list((tmp_path / "plots").iterdir())) == 3


def test_the_output_goes_to_a_file(files, tmp_path):
    done = run(*files, "--format", "json", "--output", tmp_path / "figures.json")
    assert (done.exit_code, done.output) == (0, "")
    assert json.loads((tmp_path / "figures.json").read_text()) == figures(*files)
    assert "cannot be written" in problems(*files, "--output", tmp_path / "none" / "figures.json")


def test_what_tal_detect_prints_is_evaluated(tmp_path):
    video = VideoInfo(20.0, 500, 25.0, False, 64, 48, 0, "h264", "mp4", 0.0)
    model = ModelInfo("brightness", "1", "0" * 64, "cpu")
    result = Localization("a.mp4", video, model, (Segment(2.0, 4.0, "bright", 0.9),), {})
    (tmp_path / "found.json").write_text(formats.write([result], "activitynet"))
    (tmp_path / "truth.json").write_text(json.dumps({"database": {"a": truth_entry((2, 4, "bright"), duration=20)}}))
    document = figures("-g", tmp_path / "truth.json", "-p", tmp_path / "found.json", "--tiou", "0.95")
    assert document["average"] == 1


def test_all_that_is_wrong_with_the_options_is_told_at_once(files):
    message = problems(
        *files, "--protocol", "thumos", "--tiou", "0:x:0.1", "--buckets", "big", "--overrun", "-1", "--diagnose"
    )
    assert f"protocol 'thumos' is not known; accepted are {', '.join(PROTOCOLS)}" in message
    assert "'x' is not a number" in message
    assert "buckets 'big' are not known; accepted are activitynet, thumos14" in message
    assert "overrun is -1.0; a number of seconds from 0 on is needed" in message


def test_problems_of_the_files_pass_where_they_are_allowed(tmp_path):
    truth, found = tmp_path / "truth.json", tmp_path / "found.json"
    truth.write_text(json.dumps({"database": {"a": truth_entry((0, 10, "run"), (5, 5, "run"))}}))
    files = ("-g", truth, "-p", found, "--tiou", "0.5")
    found.write_text(json.dumps({"results": {"a": [item(0, 10, "run", 0.9)], "x": [item(0, 10, "run", 0.95)]}}))
    assert "has no positive length" in problems(*files)
    assert "'x': is not a video of the ground truth" in problems(*files, "--allow-empty")
    # One of two instances is found, behind one error.
    assert figures(*files, "--allow-empty", "--allow-unknown-videos")["average"] == 0.25
    truth.write_text(json.dumps({"database": {"a": truth_entry((0, 10, "run"), duration=9.5)}}))
    assert "ends after the video" in problems(*files, "--allow-unknown-videos")
    assert figures(*files, "--allow-unknown-videos", "--overrun", "0.5")["average"] == 0.5


def test_a_subset_that_is_not_there_is_told_with_those_that_are(files):
    assert "subsets in it: test, train" in problems(*files[:4], "--subset", "dev")


def test_help_names_every_protocol():
    options = {option.name: option for option in get_command(app).params}
    assert ", ".join(PROTOCOLS) in options["protocol"].help
    assert run("--help").exit_code == 0


@pytest.mark.needs_assets
def test_published_detections_give_the_published_table(assets):
    """AutoLoc on THUMOS14: three videos of its predictions are not annotated, and count as wrong."""
    folder = assets / "evaluation"
    files = ("-g", folder / "autoloc_th14_gt.json", "-p", folder / "autoloc_th14_results.json")
    document = figures(*files, "--tiou", "0.1:0.9:0.1", "--allow-unknown-videos", "--diagnose")
    assert [round(value, 3) for value in document["mAP"].values()] == AUTOLOC
    assert round(document["average"], 3) == 0.217
    assert sum(document["diagnosis"]["profile"][0].values()) == pytest.approx(1)
    assert problems(*files).startswith("3 problems in the predictions:")
