"""Names in; machines with networks of their own on one switch, each of which can be unplugged, out. Needs root.

A machine's network is a network namespace, a cable is a pair of veth devices. The switch is a bridge in a namespace of
its own, and this process is plugged into it as well. With the block all of it is gone.
"""

from __future__ import annotations

import ipaddress
import json
import os
import secrets
import shutil
import subprocess
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

PREFIX_BITS = 24
GONE_S = 10.0


class RefusedError(Exception):
    """What is to be built cannot be built here; the message says why."""


@dataclass(frozen=True)
class Machine:
    namespace: str
    address: str

    def command(self, *arguments: str) -> list[str]:
        """What starts a process there; it becomes that process, so it has the same pid."""
        return ["ip", "netns", "exec", self.namespace, *arguments]


class Network:
    def __init__(self, *names: str) -> None:
        self.mark = f"tal{secrets.token_hex(3)}"
        self._switch = f"{self.mark}-switch"
        self._names = names
        self.machines: dict[str, Machine] = {}

    def __enter__(self) -> Self:
        if os.geteuid() != 0 or shutil.which("ip") is None:
            raise RefusedError("network namespaces need root, and `ip` of iproute2")
        try:
            self._build()
        except subprocess.CalledProcessError as error:
            self._remove()
            raise RefusedError(f"{' '.join(error.cmd)}: {error.stderr.strip()}") from None
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def cut(self, name: str) -> None:
        """Pulls the cable at the switch: the machine keeps its address, and nothing it sends arrives."""
        _ip("-n", self._switch, "link", "set", _port(name), "down")

    def mend(self, name: str) -> None:
        _ip("-n", self._switch, "link", "set", _port(name), "up")

    def processes(self) -> list[int]:
        """In any of the machines."""
        return [int(pid) for name in _namespaces(self.mark) for pid in _ip("netns", "pids", name).split()]

    def left(self) -> list[str]:
        """After the block; the kernel takes a moment to remove what belonged to a namespace."""
        give_up_s = time.monotonic() + GONE_S
        while (found := self._found()) and time.monotonic() < give_up_s:
            time.sleep(0.05)
        return found

    def _found(self) -> list[str]:
        links = [link["ifname"] for link in json.loads(_ip("-j", "link"))]
        return [*_namespaces(self.mark), *(link for link in links if link.startswith(self.mark))]

    def _build(self) -> None:
        ours, *addresses = _free_addresses(1 + len(self._names))
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "bridge", "up")
        _ip("link", "add", self.mark, "type", "veth", "peer", "name", _port("us"), "netns", self._switch)
        self._plug("us", self.mark, ours)
        for name, address in zip(self._names, addresses, strict=True):
            self.machines[name] = self._machine(name, address)

    def _machine(self, name: str, address: str) -> Machine:
        namespace, cable = f"{self.mark}-{name}", ("type", "veth", "peer", "name", _port(name), "netns", self._switch)
        _ip("netns", "add", namespace)
        _ip("-n", namespace, "link", "set", "lo", "up")
        _ip("-n", namespace, "link", "add", "lan", *cable)
        self._plug(name, "lan", address, "-n", namespace)
        return Machine(namespace, address)

    def _plug(self, name: str, device: str, address: str, *where: str) -> None:
        _ip(*where, "address", "add", f"{address}/{PREFIX_BITS}", "dev", device)
        _ip(*where, "link", "set", device, "up")
        _ip("-n", self._switch, "link", "set", _port(name), "master", "bridge", "up")

    def _remove(self) -> None:
        """A device goes with the other end of its cable."""
        subprocess.run(["ip", "link", "del", self.mark], check=False, capture_output=True)
        for name in _namespaces(self.mark):
            _ip("netns", "del", name)


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def _namespaces(mark: str) -> list[str]:
    """`ip netns` prints an id behind some names."""
    return [line.split()[0] for line in _ip("netns", "list").splitlines() if line.startswith(f"{mark}-")]


def _port(name: str) -> str:
    return f"to-{name}"


def _free_addresses(count: int) -> list[str]:
    """Of a private network to which no route leads yet, but for the default one."""
    routes = [route["dst"] for route in json.loads(_ip("-j", "-4", "route")) if route["dst"] != "default"]
    taken = [ipaddress.ip_network(route, strict=False) for route in routes]
    while True:
        network = ipaddress.ip_network(f"10.{200 + secrets.randbelow(50)}.{secrets.randbelow(256)}.0/{PREFIX_BITS}")
        if not any(network.overlaps(other) for other in taken):
            hosts = network.hosts()
            return [str(next(hosts)) for _ in range(count)]
