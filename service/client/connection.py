"""A service's address and requests in; what httpx wants of them out."""

from __future__ import annotations

import os
import re
from importlib import metadata

import httpx

from service.client.calls import Request
from service.errors import InvalidOptions

TIMEOUT_S = 60.0
SENDABLE = re.compile(r"[\x21-\x7e]{1,1000}")


def checked_url(base_url: str) -> httpx.URL:
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise InvalidOptions(f"server {base_url!r} is no URL: {error}") from None
    if url.scheme not in {"http", "https"} or not url.host:
        raise InvalidOptions(f"server {base_url!r} is no URL; one such as http://localhost:8000 is needed")
    return url


def authorization(api_key: str | None) -> dict[str, str]:
    """For every request; without a key, TAL_API_KEY's is taken, if there is one."""
    key = api_key or os.environ.get("TAL_API_KEY", "").strip()
    if not key:
        return {}
    if not SENDABLE.fullmatch(key):  # and is not told: it is a secret
        raise InvalidOptions("the API key (TAL_API_KEY) is none: it has spaces or other odd characters")
    return {"Authorization": f"Bearer {key}"}


def headers_of(request: Request) -> dict[str, str]:
    return {"User-Agent": f"tal/{metadata.version('tal-service')}", **request.headers}
