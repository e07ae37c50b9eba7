"""The text of a URL in; its parts, each in its only form, out. What others might read in another way is refused.

This is the one reading of a URL: what is checked, looked up, connected to and asked for are the parts found here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from pathlib import PurePosixPath
from urllib.parse import quote, unquote

import httpx

from service.egress.addresses import Address

LONGEST_URL = 4096
LONGEST_HOST = 253
DEFAULT_PORTS = {"http": 80, "https": 443}
URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^#]*)(?:#.*)?")
AUTHORITY = re.compile(r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<name>[^:\[\]]+))(?::(?P<port>[0-9]{1,5}))?")
NAME = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
# Whoever reads a last part like these as a number takes the whole name for an address (127.1, 0x7f000001).
NUMERIC_END = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")
KEPT_IN_PATHS = "!$%&'()*+,/:;=?@[]~"


class UrlDeniedError(Exception):
    """What the guard does not let through; says why."""


@dataclass(frozen=True)
class Target:
    """`address` is there where the URL names one instead of a host name; `path` has the query with it."""

    scheme: str
    host: str
    port: int
    path: str
    address: Address | None = None

    @property
    def place(self) -> str:
        """As a Host header names it: without the port where that is the scheme's own."""
        host = f"[{self.host}]" if isinstance(self.address, IPv6Address) else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def file_name(self) -> str:
        return PurePosixPath(unquote(self.path.partition("?")[0], errors="replace")).name


def parse(url: str) -> Target:
    if len(url) > LONGEST_URL:
        raise UrlDeniedError(f"the URL has {len(url)} characters; at most {LONGEST_URL} are accepted")
    if not url.isprintable() or " " in url or "\\" in url:
        raise UrlDeniedError("the URL has spaces, control characters or backslashes; percent-encode them")
    if not (parts := URL.fullmatch(url)):
        raise UrlDeniedError(f"{url[:100]!r} is no URL; one such as https://example.org/clip.mp4 is needed")
    scheme, authority, path = parts[1].lower(), parts[2], parts[3]
    if scheme not in DEFAULT_PORTS:
        raise UrlDeniedError(f"scheme {scheme[:30]!r} is not accepted; https is")
    if "@" in authority:
        raise UrlDeniedError("the URL has a user name or password in it; none is accepted")
    host, port, address = _read_authority(authority, scheme)
    return Target(scheme, host, port, quote(path if path.startswith("/") else f"/{path}", KEPT_IN_PATHS), address)


def _read_authority(authority: str, scheme: str) -> tuple[str, int, Address | None]:
    parts = AUTHORITY.fullmatch(authority)
    port = int(parts["port"] or DEFAULT_PORTS[scheme]) if parts else 0
    if not parts or port > 65535:
        raise UrlDeniedError(f"{authority[:100]!r} is no host with an optional port")
    if parts["v6"] is not None:
        address = _read_address(parts["v6"], IPv6Address)
        return str(address), port, address
    name = _read_name(parts["name"])
    if NUMERIC_END.fullmatch(name):
        return name, port, _read_address(name, IPv4Address)
    return name, port, None


def _read_name(given: str) -> str:
    name = given.lower()
    if not name.isascii():
        try:
            name = httpx.URL(f"https://{name}/").raw_host.decode("ascii")
        except httpx.InvalidURL:
            raise UrlDeniedError(f"{given[:100]!r} is no host name (IDNA 2008)") from None
    if not NAME.fullmatch(name) or len(name) > LONGEST_HOST:
        raise UrlDeniedError(
            f"{given[:100]!r} is no host name; one of letters, digits and hyphens, without a dot at its end, is needed"
        )
    return name


def _read_address(text: str, kind: type[IPv4Address] | type[IPv6Address]) -> Address:
    try:
        if "%" not in text:  # a zone belongs to one machine's network cards
            return kind(text)
    except AddressValueError:
        pass
    raise UrlDeniedError(f"{text[:100]!r} is no address in its usual form, such as 198.51.100.7 or [2001:db8::7]")
