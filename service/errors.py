"""Every failure a caller can meet: one tree, each leaf with a stable `code` and whether trying again can help.

TalError
├── InvalidOptions            what was asked for makes no sense
├── VideoError                the video, not the service, is at fault
│   ├── VideoNotFound
│   ├── VideoInUse            a video that a job still needs
│   ├── VideoUrlDenied        a video named by a URL that the service does not fetch
│   ├── VideoUrlFailed        a URL that gave no video: unreachable, too slow, too large, an error, a redirect
│   ├── UnsupportedMedia      not a video container or codec that we read
│   ├── NoVideoStream         a media file without pictures
│   ├── CorruptVideo          a container that we know, but nothing in it can be decoded
│   ├── ZeroFrames            a sound video stream that holds no frame
│   ├── VideoTooLong
│   ├── VideoTooLarge         a file of too many bytes
│   │   └── FrameTooLarge     pictures of too many pixels
│   ├── VideoTooSmall         fewer pixels than the model's crop or its optical flow needs
│   ├── DecodeTimeout         the decoder made no progress, or used up its CPU allowance
│   ├── DecodeOutOfMemory     the decoder reached its memory limit
│   └── DecoderCrashed        the decoder process died
├── RequestError              the request itself cannot be served as it stands
│   ├── MalformedRequest      a body, header or parameter that cannot be read
│   ├── IncompleteUpload      the body ended before the length that was announced, or before its last part
│   ├── UploadTimeout         a body that stopped coming
│   ├── NotAcceptable         a form of answer that is not on offer
│   ├── IdempotencyMismatch   a key that was used before, for another request
│   ├── ProtocolMismatch      a version of a protocol that is not spoken
│   ├── UploadNotFound        a resumable upload that is not, or no longer, there
│   ├── OffsetMismatch        a part of an upload that does not begin where the last one ended
│   ├── ChecksumMismatch      a part of an upload that is not what its checksum says
│   ├── BatchNotFound
│   ├── WebhookDenied         a URL that the service does not call
│   └── MessageNotFound       a webhook message that is not, or no longer, there
├── AccessError               who asks may not
│   ├── Unauthenticated       no key, or none that is known
│   └── Forbidden             a key without the scope that is needed
├── JobError
│   ├── JobNotFound
│   ├── JobNotFinished        what only a finished job allows
│   ├── ResultNotThere        a finished job without a result, or one whose result is gone
│   ├── JobTimeout            ran for longer than it was allowed to
│   ├── DeadlinePassed
│   ├── WorkerCrashed         the process that ran the model died
│   ├── WorkerStalled         the process that ran the model made no progress
│   ├── WorkerOutOfMemory     the process that ran the model grew beyond its limit
│   └── LeaseLost             the job was given to another worker
├── Unavailable               refused now, welcome later
│   ├── QueueFull             as many jobs, or seconds of video, wait as may
│   ├── RateLimited           more requests than the caller's key allows
│   ├── StorageFull           too little disk is left
│   ├── Draining              this process is about to end
│   └── QueueUnavailable      the queue's server or file does not answer
├── DeploymentError           set up in a way that would lose work
│   ├── QueueUnfit            a Redis that may evict, a queue file on a network file system
│   └── StoreMismatch         the queue's jobs refer to another artifact store
├── ServerError               told by the client: the service was asked, and gave no answer that it knows
│   ├── ServerUnreachable     nothing answers at the URL, or the connection broke too often
│   └── UnexpectedAnswer      no answer of this service, or one of a later release
├── ArtifactNotFound          a video or result that is not, or no longer, in the store
└── ModelError
    ├── ModelNotFound
    ├── InvalidBundle         what models.bundle refuses, told to a caller
    ├── DeviceUnavailable     the asked-for execution device is not there
    ├── InferenceFailed
    ├── WeightsMismatch       published weights that do not fit the network of their configuration
    └── ExportFailed          a network whose exported graph does not give what the network gives
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


def first_line(error: BaseException) -> str:
    """What an error of others says, short enough for one of ours."""
    return str(error).strip().split("\n", 1)[0][:300] or type(error).__name__


class TalError(Exception):
    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False


class InvalidOptions(TalError):
    """`findings` name what is wrong where, one by one: {"where": [...], "message": ...}."""

    code = "invalid_options"

    def __init__(self, message: str, findings: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(message)
        self.findings = tuple(findings)


class VideoError(TalError):
    code = "video_error"


class VideoNotFound(VideoError):
    code = "video_not_found"


class VideoInUse(VideoError):
    code = "video_in_use"


class VideoUrlDenied(VideoError):
    code = "video_url_denied"


class VideoUrlFailed(VideoError):
    code = "video_url_failed"


class UnsupportedMedia(VideoError):
    code = "unsupported_media"


class NoVideoStream(VideoError):
    code = "no_video_stream"


class CorruptVideo(VideoError):
    code = "corrupt_video"


class ZeroFrames(VideoError):
    code = "zero_frames"


class VideoTooLong(VideoError):
    code = "video_too_long"


class VideoTooLarge(VideoError):
    code = "video_too_large"


class FrameTooLarge(VideoTooLarge):
    code = "frame_too_large"


class VideoTooSmall(VideoError):
    code = "video_too_small"


class DecodeTimeout(VideoError):
    code = "decode_timeout"
    retryable = True


class DecodeOutOfMemory(VideoError):
    code = "decode_out_of_memory"


class DecoderCrashed(VideoError):
    code = "decoder_crashed"


class ModelError(TalError):
    code = "model_error"


class ModelNotFound(ModelError):
    code = "model_not_found"


class InvalidBundle(ModelError):
    code = "invalid_bundle"


class DeviceUnavailable(ModelError):
    code = "device_unavailable"


class InferenceFailed(ModelError):
    code = "inference_failed"


class WeightsMismatch(ModelError):
    code = "weights_mismatch"


class ExportFailed(ModelError):
    code = "export_failed"


class RequestError(TalError):
    code = "request_error"


class MalformedRequest(RequestError):
    code = "malformed_request"


class IncompleteUpload(RequestError):
    code = "incomplete_upload"


class UploadTimeout(RequestError):
    code = "upload_timeout"
    retryable = True


class NotAcceptable(RequestError):
    code = "not_acceptable"


class IdempotencyMismatch(RequestError):
    code = "idempotency_mismatch"


class ProtocolMismatch(RequestError):
    code = "protocol_mismatch"


class UploadNotFound(RequestError):
    code = "upload_not_found"


class OffsetMismatch(RequestError):
    code = "offset_mismatch"


class ChecksumMismatch(RequestError):
    code = "checksum_mismatch"


class BatchNotFound(RequestError):
    code = "batch_not_found"


class WebhookDenied(RequestError):
    code = "webhook_denied"


class MessageNotFound(RequestError):
    code = "message_not_found"


class AccessError(TalError):
    code = "access_error"


class Unauthenticated(AccessError):
    code = "unauthenticated"


class Forbidden(AccessError):
    code = "forbidden"


class JobError(TalError):
    code = "job_error"


class JobNotFound(JobError):
    code = "job_not_found"


class JobNotFinished(JobError):
    code = "job_not_finished"


class ResultNotThere(JobError):
    code = "result_not_there"


class JobTimeout(JobError):
    code = "job_timeout"


class DeadlinePassed(JobError):
    code = "deadline_passed"


class WorkerCrashed(JobError):
    code = "worker_crashed"
    retryable = True


class WorkerStalled(JobError):
    code = "worker_stalled"
    retryable = True


class WorkerOutOfMemory(JobError):
    code = "worker_out_of_memory"
    retryable = True


class LeaseLost(JobError):
    code = "lease_lost"


class Unavailable(TalError):
    code = "unavailable"
    retryable = True


class QueueFull(Unavailable):
    code = "queue_full"


class RateLimited(Unavailable):
    code = "rate_limited"

    def __init__(self, message: str, wait_s: float = 1.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class StorageFull(Unavailable):
    code = "storage_full"


class Draining(Unavailable):
    code = "draining"


class QueueUnavailable(Unavailable):
    code = "queue_unavailable"


class DeploymentError(TalError):
    code = "deployment_error"


class QueueUnfit(DeploymentError):
    code = "queue_unfit"


class StoreMismatch(DeploymentError):
    code = "store_mismatch"


class ServerError(TalError):
    code = "server_error"


class ServerUnreachable(ServerError):
    code = "server_unreachable"
    retryable = True


class UnexpectedAnswer(ServerError):
    """`remote_code` is the code that a service gave which this release does not know."""

    code = "unexpected_answer"

    def __init__(self, message: str, *, status: int | None = None, remote_code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.remote_code = status, remote_code


class ArtifactNotFound(TalError):
    code = "artifact_not_found"
