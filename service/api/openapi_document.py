"""An application in; its OpenAPI document out: what FastAPI finds, and the schemas that our descriptions refer to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from service.api.answers import JobDocument, JobList, MessageDocument, MessageList, ResultDocument
from service.api.batch_documents import BatchDocument, BatchList
from service.api.problem_documents import UNAUTHENTICATED, Problem
from service.api.schemas import DetectionBody, OptionsAndModel
from service.api.upload_documents import UploadDocument, VideoDocument

# Also those that FastAPI knows and whose examples hold a null: it would leave that out.
REFERRED: tuple[tuple[type[BaseModel], JsonSchemaMode], ...] = (
    (Problem, "serialization"),
    (ResultDocument, "serialization"),
    (JobDocument, "serialization"),
    (JobList, "serialization"),
    (BatchDocument, "serialization"),
    (BatchList, "serialization"),
    (MessageDocument, "serialization"),
    (MessageList, "serialization"),
    (UploadDocument, "serialization"),
    (VideoDocument, "serialization"),
    (DetectionBody, "validation"),
    (OptionsAndModel, "validation"),
)
# One of the two, or, where a service asks for no keys, neither.
SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, `tal_...`."},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same, in another header."},
}
SECURITY: list[dict[str, list[str]]] = [{}, {"bearer": []}, {"key": []}]
# The framework's own errors leave as our problems.
NOT_GIVEN = ("HTTPValidationError", "ValidationError")


def document(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        described = FastAPI.openapi(app)
        _, ours = models_json_schema(REFERRED, ref_template="#/components/schemas/{model}")
        schemas = described["components"]["schemas"]
        schemas.update(ours["$defs"])
        for name in NOT_GIVEN:
            schemas.pop(name, None)
        described["components"]["securitySchemes"] = SCHEMES
        for operation in _operations(described):
            _mend(operation)
            if str(UNAUTHENTICATED) in operation["responses"]:
                operation["security"] = SECURITY
        app.openapi_schema = described
    return app.openapi_schema


def _operations(described: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path in described["paths"].values():
        yield from path.values()


def _mend(operation: dict[str, Any]) -> None:
    if "HTTPValidationError" in str(operation["responses"].get("422", "")):
        del operation["responses"]["422"]
    for parameter in operation.get("parameters", ()):
        schema = parameter["schema"]
        if "anyOf" in schema:  # left out, a parameter is None; sent, it is never null
            parameter["schema"] = next(one for one in schema["anyOf"] if one != {"type": "null"})
