"""The service's calls as coroutines: what `Client` does, for programs that wait for many things at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import httpx

from service.client import resumable, uploads
from service.client.calls import Calls, Pause, Request, Steps, T, query_of
from service.client.connection import TIMEOUT_S, authorization, checked_url, headers_of
from service.client.documents import Job
from service.client.uploads import Ask, StoredVideo, VideoSource
from service.client.watching import OnProgress, Watch
from service.errors import TalError
from service.localization import Localization


class AsyncClient:
    """One service; `close`, or leaving its `async with`, ends its connections."""

    def __init__(
        self, base_url: str, *, api_key: str | None = None, timeout_s: float = TIMEOUT_S, retries: int = 4
    ) -> None:
        url, headers = checked_url(base_url), authorization(api_key)
        self._http = httpx.AsyncClient(base_url=url, timeout=timeout_s, headers=headers)
        self._timeout_s = timeout_s
        self._calls = Calls(base_url, retries)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def detect(
        self,
        video: VideoSource,
        ask: Ask | None = None,
        *,
        name: str | None = None,
        on_progress: OnProgress | None = None,
        timeout_s: float | None = None,
    ) -> Localization:
        """The answer for a video, however long it takes; a job that is not waited for to its end is canceled."""
        job = await self.submit(video, ask, name=name)
        try:
            ended = await self.wait(job.id, on_progress=on_progress, timeout_s=timeout_s)
            ended.require_success()
        except BaseException:
            await self._give_up(job.id)
            raise
        return await self.localization(job.id)

    async def submit(self, video: VideoSource, ask: Ask | None = None, *, name: str | None = None) -> Job:
        """Returns as soon as the job is accepted. `name` is the video's, where its source has none."""
        return await self._run(self._calls.submit(video, ask or Ask(), name))

    async def job(self, job_id: str) -> Job:
        return await self._run(self._calls.job(job_id))

    async def jobs(
        self, *, state: str | None = None, model: str | None = None, tag: str | None = None
    ) -> AsyncIterator[Job]:
        """Newest first; the next page is asked for when it is needed."""
        query, cursor = query_of(state=state, model=model, tag=tag), None
        while True:
            page, cursor = await self._run(self._calls.page(query, cursor))
            for job in page:
                yield job
            if cursor is None:
                return

    async def wait(self, job_id: str, *, on_progress: OnProgress | None = None, timeout_s: float | None = None) -> Job:
        """The job at its end, whatever that is; raises JobNotFinished if that takes longer than `timeout_s`."""
        watch = Watch(self._calls, job_id, on_progress, timeout_s)
        while True:
            await self._listen(watch)
            job = await self._run(watch.poll())
            if job.finished:
                return job
            await asyncio.sleep(watch.pause_s())

    async def result(self, job_id: str, format: str = "json") -> str:  # noqa: A002
        return await self._run(self._calls.result(job_id, format))

    async def localization(self, job_id: str) -> Localization:
        return await self._run(self._calls.localization(job_id))

    async def cancel(self, job_id: str) -> Job:
        return await self._run(self._calls.cancel(job_id))

    async def retry(self, job_id: str) -> Job:
        """A new job of the same request."""
        return await self._run(self._calls.retry(job_id))

    async def delete(self, job_id: str) -> None:
        await self._run(self._calls.delete(job_id))

    async def upload(self, video: Path, *, name: str | None = None) -> StoredVideo:
        """Stores a video for later, in parts: a connection that breaks costs what was on its way."""
        return await self._run(resumable.upload(self._calls, uploads.prepare(video, name)))

    async def models(self) -> list[dict[str, Any]]:
        return await self._run(self._calls.models())

    async def ready(self) -> bool:
        """Whether the service would do a job now."""
        return await self._run(self._calls.ready())

    async def _run(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    step = steps.send(None)
                    continue
                try:
                    answer = await self._send(step)
                except httpx.RequestError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _send(self, request: Request) -> httpx.Response:
        content = request.upload.blocks_async() if request.upload else None
        return await self._http.request(
            request.method,
            request.path,
            params=request.query,
            headers=headers_of(request),
            json=request.json,
            content=content,
            timeout=httpx.Timeout(self._timeout_s, read=max(self._timeout_s, request.silence_s)),
        )

    async def _listen(self, watch: Watch) -> None:
        if not watch.listening:
            return
        request, timeout = watch.request(), httpx.Timeout(self._timeout_s, read=watch.silence_s())
        try:
            async with self._http.stream("GET", request.path, headers=headers_of(request), timeout=timeout) as answer:
                if watch.accepts(answer):
                    async for line in answer.aiter_lines():
                        if watch.feed(line):
                            break
        except httpx.RequestError:
            return

    async def _give_up(self, job_id: str) -> None:
        try:
            await self._run(replace(self._calls, retries=0).cancel(job_id))
        except TalError:
            return  # what is raised already says why
