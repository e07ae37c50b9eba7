"""More new videos than can be looked at soon in; refusals that name a pause out, and known videos are let through."""

from __future__ import annotations

import asyncio

import pytest

from service.api.state import LOOKS, MOST_WAITING_LOOKS, ApiState
from service.configured import Backends
from service.errors import Unavailable
from tests.service.api.conftest import Api


def crowd(state: ApiState, waiting: int) -> None:
    """Takes all looks, and has so many wait behind them when it asks."""

    async def ask() -> None:
        for _ in range(LOOKS):
            await state.looks.acquire()
        queue = [asyncio.create_task(state.looks.acquire()) for _ in range(waiting)]
        await asyncio.sleep(0)
        try:
            state.check_looks()
        finally:
            for one in queue:
                one.cancel()
            await asyncio.gather(*queue, return_exceptions=True)

    asyncio.run(ask())


def test_a_crowd_of_new_videos_is_asked_to_come_later(api: Api) -> None:
    held = Backends(api.queue, api.store, api.records)
    crowd(ApiState(api.config, held), MOST_WAITING_LOOKS - 1)
    state = ApiState(api.config, held)
    with pytest.raises(Unavailable, match=f"{MOST_WAITING_LOOKS} new videos wait"):
        crowd(state, MOST_WAITING_LOOKS)


def test_a_crowded_server_refuses_uploads_with_a_pause_and_takes_known_videos(
    api: Api, clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = api.submit(clip)

    def full(_: ApiState) -> None:
        raise Unavailable("16 new videos wait to be looked at already; send it again later")

    monkeypatch.setattr(ApiState, "check_looks", full)
    refused = api.http.post("/v1/detections", content=clip + b"\0", headers={"Content-Type": "video/mp4"})
    assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
    assert int(refused.headers["retry-after"]) >= 1
    assert not any(path.parent.name == "incoming" for path in api.files)
    known = {"video": {"id": first["video"]["id"]}}
    assert api.http.post("/v1/detections", json=known, headers={"Prefer": "respond-async"}).status_code == 202
    assert 'tal_admission_rejected_total{reason="busy"} 1.0' in api.http.get("/metrics").text
