"""A URL in; where it leads, or why nobody goes there, out."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address

from service.egress import targets
from service.egress.addresses import Address, allowed
from service.egress.targets import DEFAULT_PORTS, Target, UrlDeniedError

Lookup = Callable[[str, int], Sequence[str]]
PATTERN = re.compile(r"(\[.*\]|[^:]*)(?::(.+))?")
SHOWN_HOSTS = 10


def look_up(host: str, port: int) -> Sequence[str]:
    """What the machine's resolver says."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(socket_address[0]) for *_, socket_address in found))


@dataclass(frozen=True)
class Guard:
    """Where requests may go: `hosts` are names, `*.example.org` for all below one, `*` for any; empty allows none.

    A host has its scheme's port unless it names another, as in `example.org:8443`; `example.org:*` allows every port.
    Addresses of private, local and other special ranges are refused, whatever name leads to them; with `private`,
    private and loopback ones are not.
    """

    hosts: tuple[str, ...] = ()
    schemes: tuple[str, ...] = ("https",)
    private: bool = False
    lookup: Lookup = field(default=look_up, compare=False, repr=False)

    def check(self, url: str) -> Target:
        """Raises UrlDeniedError for a URL that may not be asked, as far as it can be told without asking anybody."""
        target = targets.parse(url)
        if target.scheme not in self.schemes:
            raise UrlDeniedError(f"scheme {target.scheme!r} is not accepted; {' or '.join(self.schemes)} is")
        if not any(_fits(pattern, target) for pattern in self.hosts):
            raise UrlDeniedError(f"host {target.place!r} is not accepted; {self._accepted_hosts()}")
        if target.address is not None:
            self.check_addresses(target.host, [target.address])
        return target

    def check_addresses(self, host: str, addresses: Sequence[Address]) -> None:
        """One that is refused refuses the host; which one is not told, since it may lie inside the network."""
        if not all(allowed(address, private=self.private) for address in addresses):
            raise UrlDeniedError(f"host {host!r} leads to an address of a private or special range; none is accepted")

    def resolve(self, host: str, port: int) -> list[Address]:
        """All addresses of a host, checked; raises OSError where there are none."""
        literal = _address(host)
        found = [literal] if literal else [ip_address(text) for text in self.lookup(host, port)]
        self.check_addresses(host, found)
        return found

    def _accepted_hosts(self) -> str:
        if not self.hosts:
            return "none is"
        shown = ", ".join(self.hosts[:SHOWN_HOSTS])
        return f"accepted: {shown}, ..." if len(self.hosts) > SHOWN_HOSTS else f"accepted: {shown}"


def _address(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _fits(pattern: str, target: Target) -> bool:
    parts = PATTERN.fullmatch(pattern.lower())
    return parts is not None and _host_fits(parts[1], target) and _port_fits(parts[2], target)


def _host_fits(wanted: str, target: Target) -> bool:
    if wanted.startswith("["):
        return isinstance(target.address, IPv6Address) and target.address == _address(wanted[1:-1])
    if wanted.startswith("*."):
        return target.address is None and target.host.endswith(wanted[1:])
    return wanted in {"*", target.host}


def _port_fits(wanted: str | None, target: Target) -> bool:
    return wanted == "*" or target.port == (int(wanted) if wanted else DEFAULT_PORTS[target.scheme])
