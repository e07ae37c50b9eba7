"""The committed document, and that it is whole."""

from __future__ import annotations

import json
from pathlib import Path

from tests.service.api.write_openapi import text

COMMITTED = Path(__file__).parents[3] / "docs" / "openapi.json"


def test_the_committed_document_is_the_one_that_is_served() -> None:
    assert COMMITTED.read_text() == text(), "make schema"


def test_every_reference_leads_somewhere_and_every_route_has_a_name_and_its_problems() -> None:
    written = text()
    document = json.loads(written)
    for name in {part.split('"')[0] for part in written.split('"#/components/schemas/')[1:]}:
        assert name in document["components"]["schemas"]
    routes = [route for path in document["paths"].values() for route in path.values()]
    assert all("operationId" in route and "503" in route["responses"] for route in routes)
    assert len({route["operationId"] for route in routes}) == len(routes)
