"""An application and an address in; one uvicorn process that drains in order on SIGTERM out."""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from types import FrameType

import uvicorn
from fastapi import FastAPI

from service.api.state import ApiState
from service.settings import Settings

# Longer than clients and proxies keep an idle connection: whoever ends it first may meet a request on its way.
KEEP_ALIVE_S = 75


@dataclass(frozen=True)
class Address:
    host: str = "127.0.0.1"
    port: int = 8000
    root_path: str = ""


class DrainingServer(uvicorn.Server):
    """On a signal, says that it is not ready; `unready_s` later refuses new work and lets what is under way finish.

    In between it takes work as ever, so that a balancer can turn away from it before anybody is refused. A second
    signal cuts that short.
    """

    def __init__(self, config: uvicorn.Config, state: ApiState, unready_s: float) -> None:
        super().__init__(config)
        self._state, self._unready_s = state, unready_s

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        for server in self.servers:
            for socket in server.sockets:
                host, port = socket.getsockname()[:2]
                shown = f"[{host}]" if ":" in host else host
                print(f"listening on http://{shown}:{port}", file=sys.stderr, flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._state.leaving or self._unready_s == 0:
            self._end(sig, frame)
            return
        self._state.leaving = True
        timer = threading.Timer(self._unready_s, self._end, (sig, frame))
        timer.daemon = True
        timer.start()

    def _end(self, sig: int, frame: FrameType | None) -> None:
        if not self._state.draining:
            self._state.drain()
        super().handle_exit(sig, frame)


def build(app: FastAPI, config: Settings, address: Address) -> DrainingServer:
    settings = uvicorn.Config(
        app,
        host=address.host,
        port=address.port,
        proxy_headers=bool(config.trusted_proxies),
        forwarded_allow_ips=list(config.trusted_proxies),
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(config.drain_s)),
        log_level="warning",
        server_header=False,
        lifespan="on",
    )
    return DrainingServer(settings, app.state.api, config.unready_s)
