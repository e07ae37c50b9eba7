"""Settings and what holds jobs, files and records in; the HTTP application out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.routing import Route

from service.api import (
    batches,
    detections,
    error_responses,
    health,
    jobs,
    models,
    resumable_uploads,
    tus_headers,
    videos,
    webhooks,
)
from service.api.batch_feeder import feeding
from service.api.observed import Observed
from service.api.openapi_document import document
from service.api.state import ApiState
from service.configured import Backends
from service.settings import Settings


def create_app(config: Settings, held: Backends, *, root_path: str = "") -> FastAPI:
    state = ApiState(config, held)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        state.started = True
        async with feeding(state):
            yield
            state.drain()

    app = FastAPI(
        title="Temporal action localization",
        version=metadata.version("tal-service"),
        description="Post a video, get the actions in it, each from when to when.",
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.api = state
    app.openapi = lambda: document(app)  # type: ignore[method-assign]
    for resource in (detections, jobs, batches, videos, resumable_uploads, webhooks, models, health):
        app.include_router(resource.router)
        state.routes += [route for route in resource.router.routes if isinstance(route, Route)]
    error_responses.install(app)
    app.add_middleware(Observed, state=state, root_path=root_path)
    if config.cors_origins:  # around everything, so that a page can read every error
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(config.cors_origins),
            allow_methods=["GET", "HEAD", "POST", "PATCH", "DELETE"],
            allow_headers=["*"],
            expose_headers=[
                "Location",
                "Retry-After",
                "ETag",
                "X-Request-Id",
                "Idempotency-Replayed",
                "Preference-Applied",
                *tus_headers.ANSWERED,
            ],
        )
    return app
