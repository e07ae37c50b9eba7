"""`tal keys` as an operator runs it, and a service that takes what it prints."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from service.client import Client
from service.commands.keys import app
from service.errors import Forbidden, InvalidOptions, Unauthenticated
from service.jobs.keys import FORM
from service.settings import Settings
from tests.service.api.conftest import serving
from tests.service.test_cli import tal


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("TAL_REDIS_URL", "TAL_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TAL_HOME", str(tmp_path))
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_a_key_is_printed_once_on_standard_output_alone(home: Path) -> None:
    made = tal(home, "keys", "create", "the lab")
    assert made.returncode == 0
    match = FORM.fullmatch(made.stdout.removesuffix("\n"))
    assert match
    assert match[1] in made.stderr
    assert made.stdout.strip() not in made.stderr
    listed = run("list").output
    assert listed.split() == [match[1], "active", "submit,read", "the", "lab"]
    assert made.stdout.strip() not in listed + run("show", match[1]).output


def test_what_a_key_allows_is_shown_in_units_of_the_service() -> None:
    options = ("--scopes", "read, submit", "--rate", "5", "--burst", "20", "--max-queued-hours", "10")
    text = run("create", "x", *options, "--expires-days", "90").stdout.strip()
    shown = json.loads(run("show", text.split("_")[1]).output)
    assert shown["scopes"] == ["submit", "read"]
    assert shown["allowance"] == {"requests_per_s": 5.0, "burst": 20, "max_queued_video_s": 36000.0}
    assert shown["expires_at_s"] == pytest.approx(time.time() + 90 * 86400, abs=60)
    assert (shown["state"], "hash" in shown) == ("active", False)


def test_a_revoked_key_is_listed_as_such() -> None:
    key_id = run("create", "x").stdout.split("_")[1]
    assert run("revoke", key_id).exit_code == run("revoke", key_id).exit_code == 0
    assert run("list").output.split()[:2] == [key_id, "revoked"]


@pytest.mark.parametrize(
    "options",
    [
        ("--scopes", "write"),
        ("--scopes", ""),
        ("--rate", "0"),
        ("--burst", "3"),
        ("--rate", "1", "--burst", "0"),
        ("--max-queued-hours", "-1"),
        ("--expires-days", "nan"),
    ],
)
def test_what_makes_no_sense_makes_no_key(options: tuple[str, ...]) -> None:
    assert isinstance(run("create", "x", *options).exception, InvalidOptions)
    assert run("list").output == ""


def test_an_unknown_key_is_one_line_and_status_two(home: Path) -> None:
    done = tal(home, "keys", "revoke", "0123456789")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: no key '0123456789'; `tal keys list` tells all [invalid_options]\n"


def test_the_client_gives_the_key_that_the_environment_or_the_caller_names(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, submitter = (run("create", "x", "--scopes", scope).stdout.strip() for scope in ("read", "submit"))
    with serving(Settings(home=home, min_free_disk_mib=0, drain_s=2.0)) as api:
        url = str(api.http.base_url)
        with Client(url) as client, pytest.raises(Unauthenticated, match="needs an API key"):
            client.models()
        monkeypatch.setenv("TAL_API_KEY", f" {reader}\n")
        with Client(url) as client:
            assert [one["name"] for one in client.models()] == ["marionette"]
        with Client(url, api_key=submitter) as client, pytest.raises(Forbidden, match="'read'"):
            client.models()
        listed = tal(home, "jobs", "list", "--server", url, TAL_API_KEY=reader)
        assert (listed.returncode, listed.stdout, listed.stderr) == (0, "", "")


def test_a_key_that_cannot_be_sent_is_refused_without_being_told() -> None:
    with pytest.raises(InvalidOptions, match="API key") as refused:
        Client("http://localhost:1", api_key="tal_0 secret")
    assert "secret" not in str(refused.value).replace("is a secret", "")
