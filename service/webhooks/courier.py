"""A message in; one attempt to post it, signed, and what came of that, out."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Protocol

from service.egress.requests import Answer, UrlDeniedError, UrlFailedError
from service.errors import first_line
from service.webhooks.message import Attempt, Message
from service.webhooks.schedule import Sent
from service.webhooks.signing import Signer

TIMEOUT_S = 15.0

log = logging.getLogger(__name__)


class Send(Protocol):
    """May raise UrlDeniedError and UrlFailedError, follows no redirect, and takes `timeout_s` at most."""

    def __call__(self, url: str, headers: Mapping[str, str], body: bytes, timeout_s: float, /) -> Answer: ...


class Courier:
    def __init__(self, signer: Signer, send: Send, timeout_s: float = TIMEOUT_S) -> None:
        self._signer, self._send, self._timeout_s = signer, send, timeout_s

    def post(self, message: Message, at_s: float) -> Sent:
        body = message.body()
        headers = {"content-type": "application/json", **self._signer.headers(message.id, at_s, body)}
        try:
            answer = self._send(message.url, headers, body, self._timeout_s)
        except UrlDeniedError as error:
            return Sent(Attempt(at_s, error=first_line(error)), denied=True)
        except UrlFailedError as error:
            return Sent(Attempt(at_s, error=first_line(error)))
        except Exception as error:  # one message that cannot be sent must not come again at once, for ever
            log.warning("%s could not be sent", message.id, exc_info=error)
            return Sent(Attempt(at_s, error="the service failed; its log says why"))
        redirect = "a redirect, which is not followed" if 300 <= answer.status < 400 else None
        return Sent(Attempt(at_s, answer.status, redirect), retry_after=answer.retry_after)
