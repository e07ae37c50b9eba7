"""A request's id in; the same id in every line that is logged while it is answered, threads included, out."""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar

request_id: ContextVar[str] = ContextVar("request_id", default="-")
log = logging.getLogger(__name__)
FORMAT = "%(asctime)s %(levelname)s [%(request_id)s] %(message)s"
# Asked every few seconds by whoever watches over the service.
PROBES = {"/livez", "/readyz", "/startupz", "/metrics"}


class RequestIds(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        return True


def set_up() -> None:
    shown = logging.StreamHandler(sys.stderr)
    shown.addFilter(RequestIds())
    logging.basicConfig(handlers=[shown], level=logging.INFO, format=FORMAT)


def answered(method: str, route: str, status: int, seconds: float) -> None:
    level = logging.DEBUG if route in PROBES else logging.INFO
    log.log(level, "%s %s %s in %.3f s", method, route, status, seconds)
