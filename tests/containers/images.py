"""The environment of an engine in; the names of the images that the stack starts from out.

Where an image registry can be reached these are the ones that docker-compose.yml names; elsewhere they are made of the
distribution's own packages.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

PYTHON, REDIS, PROMETHEUS = "python:3.11-slim-bookworm", "redis:7-alpine", "prom/prometheus:v3.5.0"
RELEASE = "bookworm"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
LOCAL_BASE = "tal-base:local"
PULL_S = 120


def find(environment: Mapping[str, str]) -> dict[str, str]:
    """As variables of docker-compose.yml."""
    if _pull(environment, PYTHON):
        for image in (REDIS, PROMETHEUS):
            if not _pull(environment, image):
                raise RuntimeError(f"{PYTHON} can be pulled and {image} cannot")
        return {"BASE_IMAGE": PYTHON, "REDIS_IMAGE": REDIS, "PROMETHEUS_IMAGE": PROMETHEUS}
    _make_base(environment)
    for name, package in (("redis", "redis-server"), ("prometheus", "prometheus")):
        install = f"apt-get update && apt-get install -y --no-install-recommends {package}"
        # As the official image of Prometheus, it is run with arguments alone.
        entry = 'ENTRYPOINT ["prometheus"]' if name == "prometheus" else ""
        _build(environment, f"tal-{name}:local", f"FROM {LOCAL_BASE}\nRUN {install}\n{entry}\n")
    return {"BASE_IMAGE": LOCAL_BASE, "REDIS_IMAGE": "tal-redis:local", "PROMETHEUS_IMAGE": "tal-prometheus:local"}


def _pull(environment: Mapping[str, str], image: str) -> bool:
    if _run(environment, "docker", "image", "inspect", image):
        return True
    try:
        return _run(environment, "docker", "pull", "--quiet", image, timeout_s=PULL_S)
    except subprocess.TimeoutExpired:
        return False


def _make_base(environment: Mapping[str, str]) -> None:
    """A minimal system with Python; certificates as on this machine, since a proxy's own may be among them."""
    if _run(environment, "docker", "image", "inspect", LOCAL_BASE):
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        packages = "--include=ca-certificates,python3,python3-venv"
        command = ["debootstrap", "--variant=minbase", packages, RELEASE, str(root), *_mirror()]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        if CERTIFICATES.exists():
            (root / str(CERTIFICATES)[1:]).write_bytes(CERTIFICATES.read_bytes())
        archive = Path(folder) / "root.tar"
        subprocess.run(["tar", "-C", str(root), "-cf", str(archive), "."], check=True)
        subprocess.run(
            ["docker", "import", str(archive), "tal-base:plain"],
            env=dict(environment),
            check=True,
            stdout=subprocess.DEVNULL,
        )
    _build(
        environment,
        LOCAL_BASE,
        f"FROM tal-base:plain\nENV PIP_CERT={CERTIFICATES} SSL_CERT_FILE={CERTIFICATES}\n"
        "RUN ln -sf python3 /usr/bin/python\n",
    )


def _mirror() -> list[str]:
    """Where this machine has its packages from."""
    sources = Path("/etc/apt/sources.list.d/debian.sources")
    lines = sources.read_text().splitlines() if sources.exists() else []
    return [line.split()[1] for line in lines if line.startswith("URIs:")][:1]


def _build(environment: Mapping[str, str], name: str, dockerfile: str) -> None:
    command = ["docker", "build", "--quiet", "--tag", name, "-"]
    done = subprocess.run(command, input=dockerfile.encode(), env=dict(environment), capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} cannot be built: {done.stdout[-500:]!r} {done.stderr[-2000:]!r}")


def _run(environment: Mapping[str, str], *command: str, timeout_s: float = 60) -> bool:
    done = subprocess.run(command, env=dict(environment), capture_output=True, timeout=timeout_s, check=False)
    return done.returncode == 0
