"""Settings, a queue and a store in; the HTTP application out."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api import detections, error_responses, health, jobs, models
from service.api.schemas import DetectionBody, OptionsAndModel
from service.api.state import ApiState
from service.jobs.artifacts import ArtifactStore
from service.jobs.queue import JobQueue
from service.settings import Settings

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
METHODS = {"GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH"}


class Problem(BaseModel):
    """RFC 9457; `code` is stable, `request_id` is also in the logs."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    errors: list[dict[str, Any]] = []
    request_id: str | None = None


PROBLEM = {"$ref": "#/components/schemas/Problem"}
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": meaning, "content": {error_responses.MEDIA_TYPE: {"schema": PROBLEM}}}
    for status, meaning in {
        400: "The request cannot be read.",
        404: "There is no such thing.",
        406: "That form of answer is not on offer.",
        408: "The body stopped coming.",
        409: "The job's state does not allow it.",
        410: "No longer kept.",
        413: "The video is too large or too long.",
        415: "Not a media type, container or codec that is read.",
        422: "What is asked for makes no sense.",
        429: "Too much is waiting; see Retry-After.",
        500: "The service failed.",
        503: "Not now; see Retry-After.",
        504: "The job took longer than it was allowed to.",
        507: "Too little disk is left.",
    }.items()
}


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the schemas that our own descriptions refer to."""
    if app.openapi_schema is None:
        described = FastAPI.openapi(app)
        _, ours = models_json_schema(
            [(Problem, "validation"), (DetectionBody, "validation"), (OptionsAndModel, "validation")],
            ref_template="#/components/schemas/{model}",
        )
        described.setdefault("components", {}).setdefault("schemas", {}).update(ours["$defs"])
        app.openapi_schema = described
    return app.openapi_schema


def create_app(config: Settings, queue: JobQueue, store: ArtifactStore, *, root_path: str = "") -> FastAPI:
    state = ApiState(config, queue, store)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        state.started = True
        yield
        state.drain()

    app = FastAPI(
        title="Temporal action localization",
        version=metadata.version("tal-service"),
        description="Post a video, get the actions in it, each from when to when.",
        root_path=root_path,
        lifespan=lifespan,
        responses=RESPONSES,
    )
    app.state.api = state
    app.openapi = lambda: document(app)  # type: ignore[method-assign]
    for router in (detections.router, jobs.router, models.router, health.router):
        app.include_router(router)
    error_responses.install(app)
    if config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(config.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["Location", "Retry-After", "ETag", "X-Request-Id", "Idempotency-Replayed"],
        )
    app.add_middleware(Observed, state=state)
    return app


class Observed:
    """Gives each request an id, and counts it under its route's template."""

    def __init__(self, app: ASGIApp, state: ApiState) -> None:
        self._app, self._state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
        scope.setdefault("state", {})["request_id"] = request_id
        status, began = 500, time.perf_counter()

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (b"x-request-id", request_id.encode())]}
            await send(message)

        metrics = self._state.metrics
        metrics.inflight.inc()
        try:
            await self._app(scope, receive, tell)
        finally:
            metrics.inflight.dec()
            route = getattr(scope.get("route"), "path", "unmatched")
            method = scope["method"] if scope["method"] in METHODS else "other"
            metrics.requests.labels(route, method, str(status)).inc()
            metrics.seconds.labels(route).observe(time.perf_counter() - began)
            if route == "/v1/detections":
                metrics.reject(scope["state"].get("error_code", ""))
