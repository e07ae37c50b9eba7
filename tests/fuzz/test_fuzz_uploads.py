"""A sample of every kind of broken upload, to a real server; all of them in `make fuzz`."""

from pathlib import Path

import pytest

from tests.fuzz import fuzz_uploads
from tests.fuzz.upload_cases import KINDS
from tests.fuzz.upload_requests import Case


@pytest.mark.slow
def test_no_broken_upload_hurts_the_service(tmp_path: Path) -> None:
    report = fuzz_uploads.fuzz(tmp_path, seed=1, share=0.04)
    assert not report.violations
    assert report.outcomes.keys() == KINDS.keys()
    assert report.broken_files  # it was not only the network that saw them
    assert any(counts["400"] for counts in report.outcomes.values())


def test_a_failure_a_wrong_acceptance_and_silence_are_told() -> None:
    assert fuzz_uploads.wrong_with(Case(b""), [500])
    assert fuzz_uploads.wrong_with(Case(b"", accepted=False), [202])
    assert fuzz_uploads.wrong_with(Case(b"", accepted=True), [400])
    assert fuzz_uploads.wrong_with(Case(b""), [])
    assert not fuzz_uploads.wrong_with(Case(b"", accepted=False), [503])
