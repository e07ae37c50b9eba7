"""Two hours of features through full-size ActionFormer, as ONNX; `make soak` adds TorchScript and writes the table."""

from pathlib import Path

import pytest

from tests.soak import detector_memory
from tests.soak.detector_memory import LIMIT_BYTES, TWO_HOURS_SNIPPETS


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_hours_of_features_stay_within_four_gigabytes(tmp_path: Path) -> None:
    bundle = detector_memory.make_bundle(tmp_path / "bundle", "actionformer", "onnx")
    run = detector_memory.measure(bundle, "actionformer", "onnx", TWO_HOURS_SNIPPETS)
    assert run.segments == 200
    assert run.peak_bytes <= LIMIT_BYTES, detector_memory.table([run])
