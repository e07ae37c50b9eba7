"""A service's address and requests in; what httpx wants of them out."""

from __future__ import annotations

from importlib import metadata

import httpx

from service.client.calls import Request
from service.errors import InvalidOptions

TIMEOUT_S = 60.0


def checked_url(base_url: str) -> httpx.URL:
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise InvalidOptions(f"server {base_url!r} is no URL: {error}") from None
    if url.scheme not in {"http", "https"} or not url.host:
        raise InvalidOptions(f"server {base_url!r} is no URL; one such as http://localhost:8000 is needed")
    return url


def headers_of(request: Request) -> dict[str, str]:
    return {"User-Agent": f"tal/{metadata.version('tal-service')}", **request.headers}
