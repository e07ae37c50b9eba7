"""Every failure a caller can meet: one tree, each leaf with a stable `code` and whether trying again can help.

TalError
├── InvalidOptions            what was asked for makes no sense
├── VideoError                the video, not the service, is at fault
│   ├── VideoNotFound
│   ├── UnsupportedMedia      not a video container or codec that we read
│   ├── NoVideoStream         a media file without pictures
│   ├── CorruptVideo          a container that we know, but nothing in it can be decoded
│   ├── ZeroFrames            a sound video stream that holds no frame
│   ├── VideoTooLong
│   ├── VideoTooLarge
│   ├── VideoTooSmall         fewer pixels than the model's crop or its optical flow needs
│   ├── DecodeTimeout         the decoder made no progress, or used up its CPU allowance
│   ├── DecodeOutOfMemory     the decoder reached its memory limit
│   └── DecoderCrashed        the decoder process died
└── ModelError
    ├── ModelNotFound
    ├── InvalidBundle         what models.bundle refuses, told to a caller
    ├── DeviceUnavailable     the asked-for execution device is not there
    ├── InferenceFailed
    ├── WeightsMismatch       published weights that do not fit the network of their configuration
    └── ExportFailed          a network whose exported graph does not give what the network gives
"""

from __future__ import annotations

from typing import ClassVar


def first_line(error: BaseException) -> str:
    """What an error of others says, short enough for one of ours."""
    return str(error).strip().split("\n", 1)[0][:300] or type(error).__name__


class TalError(Exception):
    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False


class InvalidOptions(TalError):
    code = "invalid_options"


class VideoError(TalError):
    code = "video_error"


class VideoNotFound(VideoError):
    code = "video_not_found"


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
