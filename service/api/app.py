"""Settings, a queue and a store in; the HTTP application out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from service.api import detections, error_responses, health, jobs, models
from service.api.observed import Observed
from service.api.openapi_document import document
from service.api.state import ApiState
from service.jobs.artifacts import ArtifactStore
from service.jobs.queue import JobQueue
from service.settings import Settings


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
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.api = state
    app.openapi = lambda: document(app)  # type: ignore[method-assign]
    for router in (detections.router, jobs.router, models.router, health.router):
        app.include_router(router)
    error_responses.install(app)
    app.add_middleware(Observed, state=state, root_path=root_path)
    if config.cors_origins:  # around everything, so that a page can read every error
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(config.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["Location", "Retry-After", "ETag", "X-Request-Id", "Idempotency-Replayed"],
        )
    return app
