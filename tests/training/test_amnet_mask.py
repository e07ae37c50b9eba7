"""The benchmark of AMNet's mask: its figure by hand, and the whole way from a trained run to picture and figure."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import amnet_mask
from tests.training import footage
from training import plan as plans
from training import run


def trained(root: Path, network: str = "amnet", **options: object) -> None:
    footage.write(root)
    document = footage.plan(epochs=12, warmup_epochs=1, validate_every_epochs=0)
    document["detector"] = {"network": network, "preset": "compact", "options": {**footage.OPTIONS, **options}}
    run.run(plans.parse(document), root, root / network)


def test_the_area_is_the_chance_that_action_scores_higher() -> None:
    scores, acting = np.array([0.9, 0.2, 0.5, 0.5, 0.1]), np.array([True, False, True, False, False])
    assert amnet_mask.area_under_roc(scores, acting) == pytest.approx((3 + 2.5) / 6)
    assert amnet_mask.area_under_roc(scores, ~acting) == pytest.approx(0.5 / 6)
    assert amnet_mask.area_under_roc(np.zeros(5), acting) == 0.5
    with pytest.raises(ValueError, match="5 of 5 snippets are positive"):
        amnet_mask.area_under_roc(scores, np.ones(5, bool))


def test_a_trained_mask_finds_action_and_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(tmp_path)
    told = []
    for results in (tmp_path / "results", tmp_path / "again"):
        amnet_mask.main(["--folder", str(tmp_path), "--results", str(results), "--videos", "2"])
        told.append({path.name: path.read_bytes() for path in results.iterdir()})
    assert told[0] == told[1]
    document = json.loads(told[0]["amnet_mask.json"])
    assert json.loads(capsys.readouterr().out.split("}")[0] + "}") == document
    assert (document["videos"], document["snippets"]) == (4, 4 * footage.STEPS)
    assert document["area_under_roc"] > 0.8
    assert document["mean_mask_in_action"] > document["mean_mask_beside_action"]
    picture = told[0]["amnet_mask.svg"].decode()
    assert picture.count("<!-- video_") == 2
    assert "amnet_mask.svg" not in picture


def test_a_run_without_a_mask_is_refused(tmp_path: Path) -> None:
    trained(tmp_path, "actionformer")
    with pytest.raises(SystemExit, match="a run of actionformer, which has no mask"):
        amnet_mask.main(["--folder", str(tmp_path), "--run", "actionformer"])
