"""The models that live workers announce and those on this machine's disk in; their descriptions out."""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path as Folder
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import JSONResponse, Response

from models import bundle as bundles
from models.bundle import BundleError
from service import configured
from service.api.access import caller_of
from service.api.answers import ModelDocument, ModelList
from service.api.problem_documents import problems
from service.api.state import ApiState, state_of
from service.errors import ModelNotFound
from service.jobs.records import Record
from service.settings import Settings

log = logging.getLogger(__name__)
router = APIRouter(prefix="/v1/models", tags=["models"])
Name = Annotated[str, Path(json_schema_extra={"minLength": 1}, examples=["marionette"])]


# What workers have announced is remembered for a while: while none is up, jobs can be accepted, and wait for one.
REMEMBERED, REMEMBER_S = "model", 86400.0
MOST_REMEMBERED = 1000


def default_name(config: Settings) -> str:
    """The model itself may be on the workers' machines alone."""
    return Folder(config.default_model or configured.SHIPPED).name


def known_models(state: ApiState) -> dict[str, dict[str, Any]]:
    """By name; `ready` says that a worker would take a job for it now."""
    workers = state.queue.workers()
    _remember(state, {name: dict(told) for worker in workers for name, told in worker.models.items()})
    remembered = state.records.page(REMEMBERED, limit=MOST_REMEMBERED)
    known = {str(one.body["name"]): {**one.body, "ready": False} for one in remembered} | on_disk(state.config)
    for worker in workers:
        for name, description in worker.models.items():
            ready = worker.ready or known.get(name, {}).get("ready", False)
            known[name] = {**description, "name": name, "ready": ready}
    return known


def on_disk(config: Settings) -> dict[str, dict[str, Any]]:
    """Only folders that an operator put in place count: a caller's word is never a path."""
    folders = {path.name: path for path in config.models_folder.glob("*") if path.is_dir()}
    shipped = configured.SHIPPED_FOLDER / configured.SHIPPED
    folders.setdefault(shipped.name, shipped)
    try:
        default = configured.find_model(None, config)
        folders.setdefault(default.name, default)
    except ModelNotFound:
        pass  # told by readiness
    described = ((name, _described(folder)) for name, folder in folders.items())
    return {name: found for name, found in described if found is not None}


def require(known: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    if name not in known:
        raise ModelNotFound(f"no model {name[:100]!r}; there are: {', '.join(sorted(known)) or 'none'}")
    return known[name]


@router.get(
    "",
    operation_id="list_models",
    summary="The models that may be asked for",
    response_class=Response,
    responses={200: {"model": ModelList, "description": "By name."}, **problems("model_not_found")},
)
async def list_models(request: Request) -> Response:
    state, _ = state_of(request), await caller_of(request, "read")
    known = await state.ask(known_models, state)
    default = await state.ask(default_name, state.config)
    return JSONResponse({"models": [{**known[name], "default": name == default} for name in sorted(known)]})


@router.get(
    "/{name}",
    operation_id="get_model",
    summary="One model, with its labels",
    response_class=Response,
    responses={200: {"model": ModelDocument, "description": "The model."}, **problems("model_not_found")},
)
async def get_model(name: Name, request: Request) -> Response:
    state, _ = state_of(request), await caller_of(request, "read")
    found = require(await state.ask(known_models, state), name)
    return JSONResponse({**found, "default": name == await state.ask(default_name, state.config)})


def _remember(state: ApiState, live: dict[str, dict[str, Any]]) -> None:
    """Written when something is new, or half forgotten."""
    for name, told in live.items():
        body = {**told, "name": name}
        key = hashlib.sha256(name.encode()).hexdigest()
        known = state.records.get(REMEMBERED, key)
        fresh = known is not None and (known.expires_at_s or 0.0) > time.time() + REMEMBER_S / 2
        if known is None:
            state.records.create(Record(REMEMBERED, key, body, expires_at_s=time.time() + REMEMBER_S))
        elif not fresh or known.body != body:
            state.records.replace(replace(known, body=body, expires_at_s=time.time() + REMEMBER_S))


@lru_cache(maxsize=1000)
def _tell(name: str, said: str) -> None:
    """Once, since folders are looked at with every request."""
    log.warning("model %s is left out: %s", name, said)


def _described(folder: Folder) -> dict[str, Any] | None:
    try:
        bundle = bundles.read(folder)
    except (BundleError, OSError) as error:
        _tell(folder.name, str(error))
        return None
    manifest = bundle.manifest
    return {
        "name": folder.name,
        "version": manifest.version,
        "sha256": bundle.sha256,
        "licence": manifest.licence,
        "labels": list(manifest.segment_labels),
        "ready": False,
    }
