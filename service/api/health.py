"""Whether this process lives, has started, and could have a job done now."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.api import models
from service.api.state import ApiState, state_of
from service.errors import TalError
from service.settings import MIB

router = APIRouter(tags=["health"])
GOOD = "ok"


@router.get("/livez", operation_id="livez", summary="Whether the process answers")
async def livez() -> dict[str, str]:
    return {"status": GOOD}


@router.get("/startupz", operation_id="startupz", summary="Whether the process has started")
async def startupz(request: Request) -> Response:
    started = state_of(request).started
    return JSONResponse({"status": GOOD if started else "starting"}, 200 if started else 503)


@router.get("/readyz", operation_id="readyz", summary="Whether a job would be done now")
async def readyz(request: Request) -> Response:
    state = state_of(request)
    checks = await state.ask(_checks, state)
    ready = all(found == GOOD for found in checks.values())
    body: dict[str, Any] = {"status": GOOD if ready else "unready", "checks": checks}
    return JSONResponse(body, 200 if ready else 503, {} if ready else {"Retry-After": "5"})


@router.get("/metrics", operation_id="metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    state = state_of(request)
    return Response(await state.ask(generate_latest, state.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _checks(state: ApiState) -> dict[str, str]:
    return {
        "accepting": "this server is about to end" if state.draining else GOOD,
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
    with state.store.writer("video", 1) as writer:
        writer.write(b"x")  # and gone with the block
    return GOOD


def _worker(state: ApiState) -> str:
    wanted = models.default_name(state.config)
    serving = any(worker.ready and wanted in worker.models for worker in state.queue.workers())
    return GOOD if serving else f"no ready worker serves {wanted!r}"
