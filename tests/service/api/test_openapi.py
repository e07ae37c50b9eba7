"""The committed document, that it is whole, and that its examples are what they show."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.api.error_responses import MEDIA_TYPE, code_status
from tests.service.api.write_openapi import text

COMMITTED = Path(__file__).parents[3] / "docs" / "openapi.json"
DOCUMENT = json.loads(COMMITTED.read_text())
ROUTES = {f"{method} {path}": route for path, routes in DOCUMENT["paths"].items() for method, route in routes.items()}


def media() -> Iterator[dict[str, Any]]:
    """Every description of a body, asked for or given."""
    for route in ROUTES.values():
        for described in (route.get("requestBody", {}), *route["responses"].values()):
            yield from described.get("content", {}).values()


def test_the_committed_document_is_the_one_that_is_served() -> None:
    assert COMMITTED.read_text() == text(), "make schema"


def test_every_reference_leads_somewhere_and_every_route_has_a_name() -> None:
    for name in {part.split('"')[0] for part in COMMITTED.read_text().split('"#/components/schemas/')[1:]}:
        assert name in DOCUMENT["components"]["schemas"]
    assert len({route["operationId"] for route in ROUTES.values()}) == len(ROUTES)


def test_every_problem_stands_under_its_status_with_an_example_of_each_code() -> None:
    for name, route in ROUTES.items():
        if "/v1/" not in name:
            continue
        for status, described in route["responses"].items():
            if int(status) >= 400:
                examples = described["content"][MEDIA_TYPE]["examples"]
                assert examples
                assert all(code_status(code) == int(status) for code in examples), (name, status)


def test_the_codes_in_the_documentation_are_those_of_the_routes() -> None:
    given = {
        (int(status), code)
        for route in ROUTES.values()
        for status, described in route["responses"].items()
        for code in described.get("content", {}).get(MEDIA_TYPE, {}).get("examples", {})
    }
    rows = re.findall(r"^\| (\d{3}) \| (.+?) \|", (COMMITTED.parent / "api.md").read_text(), re.MULTILINE)
    told = {(int(status), code) for status, codes in rows for code in re.findall("`([a-z_]+)`", codes)}
    assert told == given | {(404, "not_found"), (405, "method_not_allowed")}


def test_every_example_is_what_its_schema_says() -> None:
    jsonschema_rs = pytest.importorskip("jsonschema_rs")
    checked = 0
    for described in media():
        schema = {**described["schema"], "components": DOCUMENT["components"]}
        validator = jsonschema_rs.Draft202012Validator(schema)
        shown = [described["example"]] if "example" in described else []
        for example in shown + [one["value"] for one in described.get("examples", {}).values()]:
            validator.validate(example)
            checked += 1
    for schema in DOCUMENT["components"]["schemas"].values():
        for example in schema.get("examples", []):
            jsonschema_rs.Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(example)
            checked += 1
    assert checked > 50


def test_every_form_of_a_submission_has_an_example() -> None:
    forms = ROUTES["post /v1/detections"]["requestBody"]["content"]
    assert all("example" in form for form in forms.values())
