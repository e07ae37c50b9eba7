"""A run's folder: one writer at a time, and one plan on one set of data."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.errors import InvalidOptions
from tests.training.evaluation import scenes
from training.run_folder import claim, digest, sole_writer, truth_digest

PLAN: dict[str, Any] = {"name": "one", "training": {"epochs": 3, "keep": 0, "clip": None}, "dataset": {"path": "a"}}
INPUTS = {"annotations": "aa", "features": "ff"}
HOLD = """
import sys, time
from pathlib import Path
from training.run_folder import sole_writer
with sole_writer(Path(sys.argv[1]), "training"):
    print("held", flush=True)
    time.sleep(60)
"""


def changed(part: str, **values: Any) -> dict[str, Any]:
    return {**PLAN, part: {**PLAN[part], **values}}


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A folder of a run that came to a checkpoint."""
    (tmp_path / "last.safetensors").touch()
    return tmp_path


def test_before_its_first_checkpoint_a_folder_is_free_for_another_plan_on_other_data(tmp_path: Path) -> None:
    claim(tmp_path, PLAN, INPUTS)
    later = changed("training", epochs=4)
    claim(tmp_path, later, {**INPUTS, "features": "gg"})
    assert json.loads((tmp_path / "plan.json").read_text()) == later


def test_a_folder_goes_on_with_its_own_plan_and_data(tmp_path: Path) -> None:
    claim(tmp_path, PLAN, INPUTS)
    claim(tmp_path, PLAN, INPUTS)
    assert json.loads((tmp_path / "plan.json").read_text()) == PLAN
    assert json.loads((tmp_path / "inputs.json").read_text()) == INPUTS


def test_another_plan_is_refused_with_all_that_differs(begun: Path) -> None:
    claim(begun, PLAN, INPUTS)
    other = {**changed("training", epochs=4), "name": "two"}
    with pytest.raises(InvalidOptions, match=r'\(name was "one", is "two"; training\.epochs was 3, is 4\); --fresh'):
        claim(begun, other, INPUTS)
    assert json.loads((begun / "plan.json").read_text()) == PLAN


def test_how_often_a_run_saves_and_how_much_it_keeps_may_change(begun: Path) -> None:
    claim(begun, PLAN, INPUTS)
    later = changed("training", keep=3, checkpoint_every_steps=10)
    claim(begun, later, INPUTS)
    assert json.loads((begun / "plan.json").read_text()) == later


def test_a_key_that_an_earlier_release_did_not_know_is_no_difference_while_it_is_null(begun: Path) -> None:
    claim(begun, PLAN, INPUTS)
    claim(begun, changed("dataset", form=None), INPUTS)
    with pytest.raises(InvalidOptions, match=r'dataset\.form was null, is "json"'):
        claim(begun, changed("dataset", form="json"), INPUTS)


def test_other_data_are_refused_and_named(begun: Path) -> None:
    claim(begun, PLAN, INPUTS)
    with pytest.raises(InvalidOptions, match=r"began on other data \(features changed since\); --fresh starts anew"):
        claim(begun, PLAN, {**INPUTS, "features": "gg"})


def test_a_folder_of_a_release_that_kept_no_digests_goes_on(begun: Path) -> None:
    (begun / "plan.json").write_text(json.dumps(PLAN))
    claim(begun, PLAN, INPUTS)
    assert json.loads((begun / "inputs.json").read_text()) == INPUTS


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_plan_of_a_folder_is_told(begun: Path, text: str) -> None:
    (begun / "plan.json").write_text(text)
    with pytest.raises(InvalidOptions, match=r"plan\.json: .*--fresh starts anew"):
        claim(begun, PLAN, INPUTS)


def test_a_digest_changes_with_every_part_of_the_truth_and_with_nothing_else() -> None:
    truth = scenes.ground_truth([(0, 0, 1, 0), (1, 2, 3, 1)])
    assert truth_digest(truth) == truth_digest(replace(truth, elsewhere={"other": "testing"}))
    others = [
        replace(truth, labels=truth.labels[::-1]),
        replace(truth, videos=truth.videos[::-1]),
        replace(truth, segments_s=truth.segments_s + 0.001),
        replace(truth, label_indices=truth.label_indices[::-1]),
        replace(truth, video_indices=truth.video_indices[::-1]),
        replace(truth, durations_s=np.full_like(truth.durations_s, 7.25)),
    ]
    assert len({truth_digest(truth), *map(truth_digest, others)}) == 7
    assert truth_digest(truth, truth) != truth_digest(truth)
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 3})


def test_a_folder_that_another_process_holds_is_refused_and_free_once_that_was_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(InvalidOptions, match="another run is training here; wait until it has ended"),
            sole_writer(tmp_path, "training"),
        ):
            pass
        holder.kill()
    with sole_writer(tmp_path / "deeper", "training"), sole_writer(tmp_path, "training"):
        assert (tmp_path / "deeper").is_dir()


def test_a_folder_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidOptions, match="cannot be written"), sole_writer(tmp_path / "file" / "run", "training"):
        pass
