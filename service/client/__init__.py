"""Videos in, localizations out, over HTTP: `Client` and its asynchronous twin `AsyncClient`."""

from service.client.async_client import AsyncClient
from service.client.documents import Failure, Job, Video
from service.client.sync_client import Client
from service.client.uploads import Ask, StoredVideo, VideoUrl

__all__ = ["Ask", "AsyncClient", "Client", "Failure", "Job", "StoredVideo", "Video", "VideoUrl"]
