"""A real SIGTERM at a real process while streams, waits and uploads are under way; every one of them ends in order."""

from __future__ import annotations

import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.service.api.processes import Processes, eventually


@pytest.fixture
def served(tmp_path: Path) -> object:
    with Processes(tmp_path, min_free_disk_mib=0, drain_s=10, wait_s=60) as processes:
        yield processes, processes.serve("--no-worker")


def test_what_is_under_way_ends_in_order(served: tuple[Processes, str], clip: bytes) -> None:
    processes, url = served
    sent = {"Content-Type": "video/mp4"}
    host, port = httpx.URL(url).host, httpx.URL(url).port
    with httpx.Client(base_url=url, timeout=30) as http, ThreadPoolExecutor(2) as pool:
        job = http.post("/v1/detections", content=clip, headers={**sent, "Prefer": "respond-async"}).json()["id"]
        listening = threading.Event()

        def listen() -> str:
            with http.stream("GET", f"/v1/jobs/{job}/events") as stream:
                lines = []
                for line in stream.iter_lines():
                    lines.append(line)
                    listening.set()
                return "\n".join(lines)

        events = pool.submit(listen)
        waiting = pool.submit(http.post, "/v1/detections", content=clip, headers=sent)
        assert listening.wait(10)
        eventually(lambda: len(http.get("/v1/jobs").json()["jobs"]) == 2)
        with socket.create_connection((host, port), timeout=20) as upload:
            head = f"POST /v1/detections HTTP/1.1\r\nHost: a\r\nContent-Type: video/mp4\r\nContent-Length: {len(clip)}"
            upload.sendall(head.encode() + b"\r\n\r\n" + clip[:1000])
            # It has been admitted once its first bytes are there.
            incoming = processes.folder / "home" / "store" / "incoming"
            eventually(lambda: [file for file in incoming.iterdir() if file.stat().st_size])
            processes.running[0].send_signal(signal.SIGTERM)
            assert '"queued"' in events.result(10)
            assert waiting.result(10).status_code == 202
            upload.sendall(clip[1000:])
            with upload.makefile("rb") as answer:
                assert b" 202 " in answer.readline()
        assert processes.running[0].wait(10) == 0


def test_behind_a_balancer_it_works_on_for_a_while_after_it_says_that_it_is_not_ready(
    tmp_path: Path, clip: bytes
) -> None:
    sent = {"Content-Type": "video/mp4", "Prefer": "respond-async"}
    with Processes(tmp_path, min_free_disk_mib=0, unready_s=60) as processes:
        url = processes.serve("--no-worker")
        server = processes.running[0]
        server.send_signal(signal.SIGTERM)
        checks = eventually(
            lambda: (found := httpx.get(f"{url}/readyz").json()["checks"])["accepting"] != "ok" and found
        )
        assert checks["accepting"] == "this server is about to end"
        assert httpx.post(f"{url}/v1/detections", content=clip, headers=sent).status_code == 202
        server.send_signal(signal.SIGTERM)
        assert server.wait(10) == 0


def test_an_idle_server_ends_at_once(served: tuple[Processes, str]) -> None:
    processes, url = served
    with httpx.Client(base_url=url) as http:
        assert http.get("/livez").status_code == 200
        processes.running[0].send_signal(signal.SIGTERM)
        assert processes.running[0].wait(5) == 0


def test_each_line_of_a_request_has_its_id_and_probes_are_not_told(served: tuple[Processes, str]) -> None:
    processes, url = served
    httpx.get(f"{url}/livez")
    httpx.get(f"{url}/v1/jobs/{'0' * 32}", headers={"X-Request-Id": "look-for-me"})
    line = eventually(lambda: next((one for one in processes.log(0).splitlines() if "look-for-me" in one), None))
    assert "INFO [look-for-me] GET /v1/jobs/{job_id} 404 in 0." in line
    assert "livez" not in processes.log(0)
