"""The application in; the same one out, with an id, a log line and a count for each request."""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass, field

import anyio
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api import request_log
from service.api.error_responses import unforeseen
from service.api.state import ApiState

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
LINGER_S, LINGER_SILENCE_S = 5.0, 1.0
SUBMITTING = {"/v1/detections", "/v1/jobs/{job_id}/retry", "/v1/videos", "/v1/batches"}
METHODS = {"GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH"}


@dataclass
class Exchange:
    """One request and its answer, as far as they have come."""

    receive: Receive
    send: Send
    request_id: str
    body_left: bool
    status: int = 500
    started: bool = False
    took_s: float | None = None
    began_s: float = field(default_factory=time.perf_counter)

    async def take(self) -> Message:
        message = await self.receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            self.body_left = False
        return message

    async def tell(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.started = message["status"], True
            headers = [*message["headers"], (b"x-request-id", self.request_id.encode())]
            if self.body_left:
                # Else the rest of a refused body would be taken in, however long that is.
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        elif not message.get("more_body", False):
            self.took_s = time.perf_counter() - self.began_s
            if self.body_left:
                await self.send({**message, "more_body": True})
                await self._linger()
                message = {"type": "http.response.body", "body": b""}
        await self.send(message)

    async def _linger(self) -> None:
        """Closing on what is still sent would reset the connection, and the answer could be lost with it."""
        with anyio.move_on_after(LINGER_S):
            while self.body_left:
                with anyio.move_on_after(LINGER_SILENCE_S) as silence:
                    if (await self.take())["type"] == "http.disconnect":
                        return
                if silence.cancelled_caught:
                    return


class Observed:
    """`root_path` is where a proxy shows the service, whether it takes that away from paths or hands it on."""

    def __init__(self, app: ASGIApp, state: ApiState, root_path: str = "") -> None:
        self._app, self._state, self._root_path = app, state, root_path.rstrip("/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
        body = headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers
        exchange = Exchange(receive, send, request_id, body)
        scope.setdefault("state", {})["request_id"] = request_id
        scope["root_path"] = self._root_path
        request_log.request_id.set(request_id)
        with self._state.metrics.inflight.track_inprogress():
            try:
                await self._answer(scope, exchange)
            finally:
                self._count(scope, exchange)

    async def _answer(self, scope: Scope, exchange: Exchange) -> None:
        try:
            await self._app(scope, exchange.take, exchange.tell)
        except Exception as error:
            answer = unforeseen(Request(scope), error)
            if exchange.started:
                raise
            await answer(scope, exchange.take, exchange.tell)

    def _count(self, scope: Scope, exchange: Exchange) -> None:
        """Under the template of its route, since paths are endless."""
        metrics = self._state.metrics
        took_s = time.perf_counter() - exchange.began_s if exchange.took_s is None else exchange.took_s
        route = getattr(scope.get("route"), "path", "unmatched")
        method = scope["method"] if scope["method"] in METHODS else "other"
        metrics.requests.labels(route, method, str(exchange.status)).inc()
        metrics.seconds.labels(route).observe(took_s)
        if route in SUBMITTING:
            metrics.reject(scope["state"].get("error_code", ""))
        request_log.answered(method, route, exchange.status, took_s)
