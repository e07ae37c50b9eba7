"""`tal train`, as a process: what it writes, that kill -9 costs nothing but time, and what it refuses."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from service.errors import DeviceUnavailable, InvalidOptions
from tests.training import footage
from training import checkpoints, run
from training import plan as plans
from training.evaluation.annotations import read_ground_truth, read_predictions

ROOT = Path(__file__).parents[2]
PROGRAM = (
    "import typer; from service.commands.train import train; "
    "app = typer.Typer(pretty_exceptions_enable=False); app.command()(train); app()"
)
STEPS = 24


def start(plan: Path, folder: Path, *options: str, program: str = PROGRAM) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program, str(plan), "--out", str(folder), "--device", "cpu", *options],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def rows(folder: Path) -> list[list[str]]:
    """Of the curve, without the last column: how long a step took differs from run to run."""
    path = folder / "curve.csv"
    if not path.exists():
        return []
    with path.open() as file:
        return [row[:-1] for row in csv.reader(file)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train") / "root"
    footage.write(folder)
    footage.write_plan(folder, epochs=STEPS // 2, validate_every_epochs=5)
    return folder


@pytest.fixture(scope="module")
def whole(root: Path) -> tuple[Path, str, str]:
    process = start(root / "plan.json", root / "whole")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return root / "whole", output, errors


def test_a_run_leaves_weights_predictions_and_figures(whole: tuple[Path, str, str], root: Path) -> None:
    folder, output, errors = whole
    result = json.loads((folder / "result.json").read_text())
    assert set(result["mAP"]) == {"0.3", "0.5", "0.7"}
    assert result["average"] == pytest.approx(sum(result["mAP"].values()) / 3)
    assert (result["steps"], result["plan"]["training"]["epochs"], result["device"]) == (STEPS, STEPS // 2, "cpu")
    assert result["judged_on"] == "train"
    assert "mAP" in output
    assert "epoch 1: total" in errors
    assert "epoch 5: average" in errors
    truth = read_ground_truth(root / "annotations.json", "train")
    assert len(read_predictions(folder / "predictions.json", truth).scores) > 10
    assert json.loads((folder / "labels.json").read_text()) == list(footage.LABELS)
    assert (folder / "weights.safetensors").is_file()
    assert (folder / "best.safetensors").is_file()


def test_a_killed_run_goes_on_to_the_same_numbers(whole: tuple[Path, str, str], root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(root / "plan.json", folder)
    deadline = time.monotonic() + 100
    while len(rows(folder)) < 9 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    assert 8 <= len(rows(folder)) < STEPS
    assert not (folder / "weights.safetensors").exists()

    process = start(root / "plan.json", folder)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert rows(folder) == rows(whole[0])
    assert len(rows(folder)) == STEPS + 1
    for name in ("weights.safetensors", "best.safetensors", "validation.csv", "predictions.json"):
        assert (folder / name).read_bytes() == (whole[0] / name).read_bytes(), name
    tensors, expected = (checkpoints.read(path / "last.safetensors")[0] for path in (folder, whole[0]))
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(value, tensors[name]) for name, value in expected.items())
    assert json.loads((folder / "result.json").read_text())["resumed_at_step"] >= 6


def test_a_folder_of_another_plan_is_refused_and_fresh_starts_anew(root: Path, tmp_path: Path) -> None:
    from typer import Typer

    from service.commands.train import train

    app = Typer()
    app.command()(train)
    asked = [str(root / "plan.json"), "--out", str(tmp_path), "--device", "cpu"]
    done = CliRunner().invoke(app, [*asked, "--epochs", "1"])
    assert done.exit_code == 0, done.exception
    again = CliRunner().invoke(app, [*asked, "--epochs", "2"])
    assert isinstance(again.exception, InvalidOptions)
    assert "began with another plan (training.epochs was 1, is 2); --fresh starts anew" in str(again.exception)
    fresh = CliRunner().invoke(app, [*asked, "--epochs", "2", "--seed", "3", "--fresh"])
    assert fresh.exit_code == 0, fresh.exception
    assert len(rows(tmp_path)) == 5
    assert json.loads((tmp_path / "plan.json").read_text())["training"]["seed"] == 3


def test_a_plan_that_came_to_no_weights_leaves_the_folder_to_its_mended_one(root: Path, tmp_path: Path) -> None:
    for wrong in ({"mixed_precision": "fp16"}, {"slow_parameters": ["no such"]}):
        with pytest.raises(InvalidOptions, match=r"mixed_precision|slow_parameters"):
            run.run(plans.read(root / "plan.json", {"epochs": 1, **wrong}), root, tmp_path, "cpu")
    run.run(plans.read(root / "plan.json", {"epochs": 1}), root, tmp_path, "cpu")
    assert len(rows(tmp_path)) == 3


def test_a_folder_where_another_run_trains_is_refused(root: Path, tmp_path: Path) -> None:
    def second(_: object) -> None:
        with pytest.raises(InvalidOptions, match="another run is training here; wait until it has ended"):
            run.run(wanted, root, tmp_path, "cpu", fresh=True)
        told.append("refused")

    told: list[str] = []
    wanted = plans.read(root / "plan.json", {"epochs": 1})
    run.run(wanted, root, tmp_path, "cpu", on_step=second)
    assert told == ["refused", "refused"]
    assert len(rows(tmp_path)) == 3


def test_without_torch_the_command_says_what_to_install(root: Path, tmp_path: Path) -> None:
    blocked = "import sys; sys.modules['torch'] = None; " + PROGRAM
    process = start(root / "plan.json", tmp_path, program=blocked)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "tal train needs torch, which is not installed: pip install '.[train]'" in errors


def test_a_device_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(DeviceUnavailable, match="'cuda' was asked for"):
        run.choose_device("cuda")
    assert run.choose_device("auto") == "cpu"
