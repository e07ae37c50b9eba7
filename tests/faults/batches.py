"""A batch whose worker and whose API die on the way: every item ends once, in order, and what is bad says why."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx

from service.jobs.queue import JobFilter
from tests.faults.deployment import Deployment, wait_until
from tests.faults.finding import Finding, Scale
from tests.faults.promises import all_succeeded, judge

ITEMS_PER_CLIP, ITEMS_PER_BAD, FEWEST_BAD = 5, 25, 6
END_S = 900.0


def deaths_amid_a_batch(service: Deployment, scale: Scale) -> Finding:
    found = Finding("a worker and the API killed amid a batch", service.backend)
    items, bad = _items(service, scale.batch_items)
    with service.http() as http:
        body = "".join(f"{line}\n" for line in items.values()).encode()
        created = http.post("/v1/batches", content=body, headers={"Content-Type": "application/jsonl"})
    batch = created.raise_for_status().json()["id"]
    _await(service, batch, lambda told: told["counts"]["succeeded"] >= scale.batch_items // 10)
    service.kill("worker0")
    service.start_worker("worker0", wait=False)
    _await(service, batch, lambda told: told["counts"]["succeeded"] >= scale.batch_items // 3)
    service.kill("api")
    service.start_api()
    found.kills += 2
    ended = _await(service, batch, lambda told: told["done"])
    _check(found, service, ended, (list(items), bad))
    jobs = service.patient(lambda: service.queue.find(JobFilter(tag=f"batch:{batch}"), 10 * scale.batch_items))
    found.expect(len(jobs) == len(items) - len(bad), f"{len(items) - len(bad)} sound items became {len(jobs)} jobs")
    judge(found, service, jobs)
    all_succeeded(found, jobs)
    return found


def _items(service: Deployment, count: int) -> tuple[dict[str, str], dict[str, str]]:
    """Lines by their custom_id, and the code of each bad one; clips are shared by some items."""
    store = service.store
    clips = [store.put("video", service.clips.fresh().read_bytes()).key for _ in range(count // ITEMS_PER_CLIP)]
    broken = store.put("video", b"no video at all" * 100).key
    kinds: list[tuple[dict[str, Any] | str, str]] = [
        ("{no json", "malformed_request"),
        ({"video": {"id": "0" * 64}}, "video_not_found"),
        ({"video": {"id": clips[0]}, "model": "nowhere"}, "model_not_found"),
        ({"video": {"id": clips[0]}, "options": {"top_k": 0}}, "invalid_options"),
        ({"video": {"id": broken}}, "unsupported_media"),
        ({"video": {"url": "https://example.org/a.mp4"}}, "video_url_denied"),
    ]
    items, bad = {}, {}
    num_bad = max(FEWEST_BAD, count // ITEMS_PER_BAD)
    places = {index * count // num_bad: kinds[index % len(kinds)] for index in range(num_bad)}
    for number in range(count):
        line, code = places.get(number, ({"video": {"id": clips[number % len(clips)]}}, ""))
        name = f"item-{number}" if isinstance(line, dict) else str(number + 1)
        items[name] = json.dumps({"custom_id": name, **line}) if isinstance(line, dict) else line
        if code:
            bad[name] = code
    return items, bad


def _check(
    found: Finding, service: Deployment, ended: dict[str, Any], wanted: tuple[list[str], dict[str, str]]
) -> None:
    names, bad = wanted
    output, errors = (_lines(service, ended["links"][what]) for what in ("output", "errors"))
    found.expect(ended["state"] == "completed", f"the batch is {ended['state']}")
    sound = [name for name in names if name not in bad]
    found.expect([line["custom_id"] for line in output] == sound, f"{len(output)} results, not as they were sent")
    told = {line["custom_id"]: line["error"]["code"] for line in errors}
    found.expect(list(told.items()) == [(name, bad[name]) for name in names if name in bad], f"errors are {told}")
    found.expect(all("result" in line for line in output), "an item that succeeded has no result")


def _lines(service: Deployment, url: str) -> list[dict[str, Any]]:
    with service.http() as http:
        return [json.loads(line) for line in http.get(url).text.splitlines()]


def _await(service: Deployment, batch: str, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    with service.http() as http:

        def told() -> dict[str, Any] | None:
            try:
                document: dict[str, Any] = http.get(f"/v1/batches/{batch}").raise_for_status().json()
            except httpx.HTTPError:
                return None
            return document if condition(document) else None

        return wait_until(told, END_S)
