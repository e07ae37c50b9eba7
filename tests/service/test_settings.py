"""Settings come from TAL_* and from nowhere else; every one is documented."""

from __future__ import annotations

from pathlib import Path

import pytest

from service import configured, settings
from service.errors import InvalidOptions
from service.pipeline.video import DecodeLimits

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


def test_settings_and_the_decoder_agree_on_what_is_usual() -> None:
    limits, usual = configured.decoding(settings.Settings()).limits, DecodeLimits()
    assert limits == usual


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAL_DEFAULT_MODEL", "")
    monkeypatch.setenv("TAL_HOME", "")
    found = settings.read()
    assert found.default_model is None
    assert found.home.is_absolute()


def test_torch_bundles_are_trusted_only_where_they_are_allowed_and_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.read().trusted_torch == ()
    monkeypatch.setenv("TAL_TRUSTED_TORCH_BUNDLES", f"{'a' * 64}, {'B' * 64},")
    assert settings.read().trusted_torch == ()
    monkeypatch.setenv("TAL_ALLOW_TORCH_BUNDLES", "1")
    assert settings.read().trusted_torch == ("a" * 64, "b" * 64)


@pytest.mark.parametrize("bad", ["a" * 63, "g" * 64, "brightness", "a" * 65])
def test_a_digest_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch, bad: str) -> None:
    monkeypatch.setenv("TAL_TRUSTED_TORCH_BUNDLES", f"{'a' * 64},{bad}")
    with pytest.raises(
        InvalidOptions, match=rf"TAL_TRUSTED_TORCH_BUNDLES: '{bad}' is no digest; 64 hexadecimal digits"
    ):
        settings.read()


def test_a_tilde_in_the_home_is_the_user_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAL_HOME", "~/models-of-mine")
    assert settings.read().home == Path.home() / "models-of-mine"


def test_a_store_is_a_folder_or_object_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAL_HOME", "/somewhere")
    assert (settings.read().store_place, str(settings.read().store_cache_folder)) == (
        "/somewhere/store",
        "/somewhere/cache",
    )
    monkeypatch.setenv("TAL_STORE", "~/kept")
    assert settings.read().store_place == str(Path.home() / "kept")
    monkeypatch.setenv("TAL_STORE", "s3://clips/some/where")
    monkeypatch.setenv("TAL_STORE_CACHE", "/fast")
    found = configured.store_address(settings.read())
    assert (found.place, found.cache_folder, found.cache_bytes) == ("s3://clips/some/where", "/fast", 20 * 2**30)


@pytest.mark.parametrize("bad", ["s3://", "s3://UPPER/x", "http://example.org/x", "s3://bucket//x"])
def test_what_is_no_store_is_told(monkeypatch: pytest.MonkeyPatch, bad: str) -> None:
    monkeypatch.setenv("TAL_STORE", bad)
    with pytest.raises(InvalidOptions, match="TAL_STORE: a folder or s3://bucket/prefix is needed"):
        settings.read()
