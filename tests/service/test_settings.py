"""Settings come from TAL_* and from nowhere else; every one is documented."""

from __future__ import annotations

from pathlib import Path

import pytest

from service import settings
from service.errors import InvalidOptions

DOCS = Path(__file__).parents[2] / "docs"


def test_the_environment_sets_what_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAL_HOME", "/somewhere")
    monkeypatch.setenv("TAL_DECODE_STALL_S", "2.5")
    found = settings.read()
    assert found.models_folder == Path("/somewhere/models")
    assert found.decode_stall_s == pytest.approx(2.5)


def test_a_bad_value_is_told_with_its_variable_and_what_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAL_DEVICE", "tpu")
    with pytest.raises(InvalidOptions, match=r"TAL_DEVICE: .*'auto', 'cpu' or 'cuda'.*found 'tpu'"):
        settings.read()


def test_every_setting_is_documented_as_it_is() -> None:
    assert settings.describe() in (DOCS / "settings.md").read_text(), "run `make schema`"
