"""A network and a folder in; Redis, object storage and two hosts of the service, on machines of their own, out."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.faults.deployment import ROOT, START_S, Deployment, Member, wait_until
from tests.hosts.namespaces import Machine, Network

MACHINES = ("a", "b", "redis", "s3")
REDIS_PORT, S3_PORT = 6379, 9000
BUCKET = "artifacts"
LEASE_S = 3.0
DRAIN_S = 2.0
DURABLE = ("--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction", "--save", "")


class Host(Deployment):
    """An API and a worker on one machine, with a folder of their own: they share nothing with another host."""

    def __init__(self, name: str, machine: Machine, folder: Path, shared: dict[str, str], **settings: Any) -> None:
        self.name, self._machine, self._shared = name, machine, shared
        super().__init__(folder, **settings)
        self.backend = "redis"

    @property
    def worker(self) -> Member:
        return self.members[f"worker-{self.name}"]

    @property
    def worker_log(self) -> str:
        return (self.folder / f"{self.worker.name}.log").read_text("utf-8")

    def begin(self) -> None:
        self.start_api(wait=False)
        self.start_worker(f"worker-{self.name}", wait=False)

    def url(self, place: str = "api") -> str:
        return f"http://{self._machine.address}:{self._ports[place]}"

    def ended(self) -> list[str]:
        return [one.name for one in self.members.values() if one.process.poll() is not None]

    def _start(self, place: str, arguments: list[str], name: str | None = None) -> None:
        name = name or self._next_name(place)
        listen = ["--host", self._machine.address] if "serve" in arguments else []
        command = self._machine.command(sys.executable, *arguments, *listen)
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env=self._environment(name), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.members[place] = Member(name, process)

    def _environment(self, name: str) -> dict[str, str]:
        return {**super()._environment(name), **self._shared, "HOME": str(self.folder / "home")}


@dataclass(frozen=True)
class Site:
    network: Network
    a: Host
    b: Host

    @property
    def hosts(self) -> tuple[Host, Host]:
        return self.a, self.b

    @property
    def ended(self) -> list[str]:
        return [name for host in self.hosts for name in host.ended()]


@contextlib.contextmanager
def open_site(network: Network, folder: Path) -> Iterator[Site]:
    machines = network.machines
    keys = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "something-secret", "AWS_REGION": "us-east-1"}
    with contextlib.ExitStack() as stack:
        redis_url = stack.enter_context(_redis(machines["redis"], folder / "redis"))
        endpoint = stack.enter_context(_object_storage(machines["s3"], folder / "s3"))
        shared = {"AWS_ENDPOINT_URL": endpoint, **keys, "TAL_OPEN": "1"}
        settings = {"redis_url": redis_url, "store": f"s3://{BUCKET}/service", "lease_s": LEASE_S, "drain_s": DRAIN_S}
        hosts = []
        for name in ("a", "b"):
            (folder / name).mkdir()
            host = Host(name, machines[name], folder / name, shared, **settings)
            hosts.append(stack.enter_context(host))
            host.begin()
        for host in hosts:
            host.await_all()
        yield Site(network, *hosts)


@contextlib.contextmanager
def _redis(machine: Machine, folder: Path) -> Iterator[str]:
    where = ("--bind", machine.address, "--port", str(REDIS_PORT), "--protected-mode", "no", "--dir", str(folder))
    with _running(machine.command("redis-server", *where, *DURABLE), folder, (machine.address, REDIS_PORT)):
        yield f"redis://{machine.address}:{REDIS_PORT}/0"


@contextlib.contextmanager
def _object_storage(machine: Machine, folder: Path) -> Iterator[str]:
    """The endpoint of one that has the bucket."""
    where, endpoint = ("--host", machine.address, "--port", str(S3_PORT)), f"http://{machine.address}:{S3_PORT}"
    with _running(machine.command(sys.executable, "-m", "moto.server", *where), folder, (machine.address, S3_PORT)):
        httpx.put(f"{endpoint}/{BUCKET}").raise_for_status()
        yield endpoint


@contextlib.contextmanager
def _running(command: list[str], folder: Path, address: tuple[str, int]) -> Iterator[None]:
    folder.mkdir()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_until(lambda: process.poll() is not None or listens(address), START_S)
        if process.poll() is not None:
            raise RuntimeError(f"{' '.join(command)}: {(folder / 'log').read_text()[-2000:]}")
        yield
    finally:
        process.kill()
        process.wait()


def listens(address: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(address, timeout=1.0):
            return True
    except OSError:
        return False
