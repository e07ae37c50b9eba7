"""Whether this process lives, has started, and could have a job done now."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.api import models
from service.api.answers import Health, Readiness
from service.api.state import ApiState, state_of
from service.errors import TalError
from service.settings import MIB

router = APIRouter(tags=["health"])
GOOD = "ok"
READY_S = 5


@router.get(
    "/livez",
    operation_id="livez",
    summary="Whether the process answers",
    response_class=Response,
    responses={200: {"model": Health, "description": "It does."}},
)
async def livez() -> Response:
    return JSONResponse({"status": GOOD})


@router.get(
    "/startupz",
    operation_id="startupz",
    summary="Whether the process has started",
    response_class=Response,
    responses={200: {"model": Health, "description": "It has."}, 503: {"model": Health, "description": "Not yet."}},
)
async def startupz(request: Request) -> Response:
    started = state_of(request).started
    return JSONResponse({"status": GOOD if started else "starting"}, 200 if started else 503)


@router.get(
    "/readyz",
    operation_id="readyz",
    summary="Whether a job would be done now",
    response_class=Response,
    responses={
        200: {"model": Readiness, "description": "It would."},
        503: {"model": Readiness, "description": "Something is missing."},
    },
)
async def readyz(request: Request) -> Response:
    state = state_of(request)
    checks = await state.ask(_checks, state)
    ready = all(found == GOOD for found in checks.values())
    body: dict[str, Any] = {"status": GOOD if ready else "unready", "checks": checks}
    return JSONResponse(body, 200 if ready else 503, {} if ready else {"Retry-After": str(READY_S)})


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: {"description": "Text.", "content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    state = state_of(request)
    return Response(await state.ask(generate_latest, state.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _checks(state: ApiState) -> dict[str, str]:
    return {
        "accepting": "this server is about to end" if state.leaving or state.draining else GOOD,
        "queue": _asked(state.queue.ping),
        "store": _asked(lambda: _store(state)),
        "worker": _asked(lambda: _worker(state)),
    }


def _asked(check: Any) -> str:
    try:
        return check() or GOOD
    except (TalError, OSError) as error:
        return str(error) or type(error).__name__


def _store(state: ApiState) -> str:
    free_mib = state.store.free_bytes() // MIB
    if free_mib < state.config.min_free_disk_mib:
        return f"{free_mib} MiB are free; at least {state.config.min_free_disk_mib} are needed"
    state.store.ping()
    with state.store.writer("video", 1) as writer:
        writer.write(b"x")  # and gone with the block
    return GOOD


def _worker(state: ApiState) -> str:
    wanted = models.default_name(state.config)
    serving = any(worker.ready and wanted in worker.models for worker in state.queue.workers())
    return GOOD if serving else f"no ready worker serves {wanted!r}"
