"""The evaluator's benchmark at a tenth of its size, and at a size to see what it writes."""

import json
import sys

from benchmarks import evaluator
from benchmarks.evaluator import BOUND_S, Size


def test_a_tenth_of_the_benchmark_stays_far_below_the_bound_of_all_of_it(tmp_path):
    size = Size().scaled(0.1)
    seconds = evaluator.measure(*evaluator.write_files(size, tmp_path))
    # CPU time: other programs on the machine must not make this fail.
    assert seconds["evaluate_cpu_s"] < BOUND_S / 10
    assert seconds["diagnose_cpu_s"] < BOUND_S / 2
    assert 0.01 < seconds["average_mAP"] < 0.9


def test_the_benchmark_writes_its_table_and_its_ratio(tmp_path, monkeypatch, capsys):
    # Stands in for the published evaluator, by the same door.
    (tmp_path / "published_detection.py").write_text(
        "class ANETdetection:\n"
        "    def __init__(self, truth, found, subset, tiou_thresholds, check_status):\n"
        "        assert len(tiou_thresholds) == 10 and not check_status\n"
        "    def evaluate(self):\n"
        "        self.average_mAP = 0.5\n"
    )
    arguments = ["evaluator", "--rounds", "1", "--share", "0.001", "--official-share", "0.001"]
    arguments += ["--official", str(tmp_path / "published_detection.py"), "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(sys, "path", list(sys.path))
    evaluator.main()
    written = json.loads((tmp_path / "evaluator.json").read_text())
    assert written["size"] == {"videos": 5, "detections": 100, "instances": 15, "classes": 20}
    assert written["bound_met"]
    assert 0 < written["official"]["difference_of_average_mAP"] < 0.5
    text = (tmp_path / "evaluator.md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert "5 videos, 500 predictions, 75 instances, 20 classes, 10 thresholds" in text
    assert "times**" in text
