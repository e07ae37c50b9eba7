"""A host in; a caller that sends it video after video, each until it is accepted, and what it was answered, out."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

import httpx

from tests.faults.deployment import Deployment

# No answer may take longer, whatever does not answer behind the API.
LONGEST_S = 60.0
PACE_S = 0.5
ACCEPTED, REFUSED = {200, 202}, {429, 503, 507}


class Caller(threading.Thread):
    def __init__(self, service: Deployment) -> None:
        super().__init__()
        self._service = service
        self._over = threading.Event()
        self.ids: list[str] = []
        self.accepted_at_s: list[float] = []
        self.answered_in_s: list[float] = []
        self.refusals: Counter[str] = Counter()
        self.wrong: list[str] = []

    def run(self) -> None:
        with httpx.Client(base_url=self._service.url(), timeout=LONGEST_S) as http:
            while not self._over.is_set() and not self.wrong:
                self._send(http, self._service.clips.fresh(), self._service.new_key())
                self._over.wait(PACE_S)

    def end(self) -> None:
        """With the video that is on its way."""
        self._over.set()
        self.join()

    def _send(self, http: httpx.Client, clip: Path, key: str) -> None:
        """Under one key, so that one job comes of it although an answer may not tell that there is one."""
        while not self.wrong:
            answer = self._ask(http, clip, key)
            if answer is None:
                continue
            if answer.status_code in ACCEPTED:
                self.ids.append(answer.json()["id"])
                self.accepted_at_s.append(time.monotonic())
                return
            self._heed(answer)

    def _ask(self, http: httpx.Client, clip: Path, key: str) -> httpx.Response | None:
        headers = {"Content-Type": "video/mp4", "Prefer": "respond-async", "Idempotency-Key": key}
        began_s = time.monotonic()
        try:
            return http.post("/v1/detections", params={"name": clip.name}, headers=headers, content=clip.read_bytes())
        except httpx.HTTPError as error:
            self.wrong.append(f"an upload got no answer: {error!r}")
            return None
        finally:
            self.answered_in_s.append(time.monotonic() - began_s)

    def _heed(self, answer: httpx.Response) -> None:
        pause = answer.headers.get("retry-after")
        if answer.status_code not in REFUSED or pause is None or answer.json().get("code") is None:
            self.wrong.append(f"an upload was answered {answer.status_code} {answer.text[:300]}")
            return
        self.refusals[f"{answer.status_code} {answer.json()['code']}"] += 1
        time.sleep(float(pause))
