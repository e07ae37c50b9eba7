"""Environment variables `TAL_*` in, one frozen `Settings` out. Only doors read it; rooms get plain values."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.errors import InvalidOptions

MIB = 1024 * 1024
SHA256 = re.compile("[0-9a-f]{64}")
BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9!_.*'()-]+)*/?")
HOST = re.compile(r"(\*|(\*\.)?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*|\[[0-9A-Fa-f:]+\])(:([0-9]{1,5}|\*))?")


def _default_home() -> Path:
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "tal"


class Settings(BaseSettings):
    """What an operator sets; `docs/settings.md` is generated from these fields."""

    model_config = SettingsConfigDict(
        env_prefix="TAL_", frozen=True, extra="ignore", env_ignore_empty=True, allow_inf_nan=False
    )

    home: Path = Field(default_factory=_default_home, description="Where models and other state live.")
    default_model: str | None = Field(
        default=None,
        description="The model that is used where none is named: a name in TAL_HOME/models, or a folder; by default "
        "the one that ships, `marionette`.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Where models run. `cuda` is strict: without a working GPU it is an error."
    )
    threads: Annotated[int, Field(ge=0, le=1_048_576)] = Field(
        default=0, description="CPU threads of the inference engine; 0 takes every core."
    )
    cpu_memory_mib: Annotated[int, Field(ge=0, le=1_048_576)] = Field(
        default=0,
        description="Upper bound of the memory that ONNX Runtime takes on the CPU; 0 sets none. "
        "TorchScript knows no such bound.",
    )
    gpu_memory_mib: Annotated[int, Field(ge=0, le=1_048_576)] = Field(
        default=0, description="Upper bound of the inference engine's GPU memory; 0 sets none."
    )
    gpu_index: Annotated[int, Field(ge=0, le=1_048_576)] = Field(
        default=0, description="Which GPU to use, counted from 0."
    )
    allow_torch_bundles: bool = Field(
        default=False,
        description="Whether bundles with TorchScript graphs, which run code of their maker, may load at all: `1` or "
        "`0`. Those that may are listed in TAL_TRUSTED_TORCH_BUNDLES.",
    )
    trusted_torch_bundles: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="The bundles with TorchScript graphs that may load: digests as `tal models show` prints them, "
        "separated by commas.",
    )
    decoder: Literal["auto", "pyav", "decord"] = Field(
        default="auto",
        description="`auto` takes the decoder that was faster in benchmarks/results/decoders.md; `decord` is used for "
        "the clips that it reads correctly, and PyAV for all others.",
    )
    decode_threads: Annotated[int, Field(ge=1, le=256)] = Field(default=1, description="Threads of the video decoder.")
    decode_memory_mib: Annotated[int, Field(ge=512, le=1_048_576)] = Field(
        default=4096, description="Address space of the decoder's process; what needs more fails by itself."
    )
    decode_stall_s: Annotated[float, Field(gt=0, le=1_000_000)] = Field(
        default=30.0, description="How long a decoder may stay silent before it is ended."
    )
    max_video_s: Annotated[float, Field(gt=0, le=1_000_000)] = Field(
        default=6 * 3600.0, description="Longest video accepted."
    )
    max_frame_px: Annotated[int, Field(ge=1, le=1_000_000_000)] = Field(
        default=8192 * 8192, description="Largest frame accepted, in pixels (width times height)."
    )
    max_video_mib: Annotated[int, Field(ge=1, le=1_073_741_824)] = Field(
        default=64 * 1024, description="Largest video file accepted."
    )

    redis_url: str | None = Field(
        default=None,
        description="Where jobs are queued, such as `redis://host:6379/0`; without it a file in TAL_HOME, for one "
        "machine.",
    )
    redis_namespace: Annotated[str, Field(pattern="^[a-z0-9_-]{1,32}$")] = Field(
        default="tal", description="Begins every key in Redis, so that several deployments can share one server."
    )
    store: str | None = Field(
        default=None,
        description="Where videos, results and features are kept: a folder, by default `store` in TAL_HOME, or "
        "`s3://bucket/prefix` for S3-compatible object storage, whose endpoint, region and credentials are taken from "
        "the usual `AWS_*` variables.",
    )
    wait_s: Annotated[float, Field(ge=0, le=3600)] = Field(
        default=25.0, description="How long a request waits for its result before it is answered with the job."
    )
    max_wait_s: Annotated[float, Field(ge=0, le=3600)] = Field(
        default=60.0, description="The longest wait that a caller may ask for (`Prefer: wait=N`)."
    )
    max_queued_jobs: Annotated[int, Field(ge=1, le=100_000_000)] = Field(
        default=10_000, description="How many jobs may wait; more are refused with 429."
    )
    max_queued_video_s: Annotated[float, Field(gt=0, le=1e12)] = Field(
        default=200 * 3600.0, description="How many seconds of video may wait; more are refused with 429."
    )
    min_free_disk_mib: Annotated[int, Field(ge=0, le=1_073_741_824)] = Field(
        default=1024, description="Uploads are refused with 507 when the artifact store has less room than this."
    )
    upload_silence_s: Annotated[float, Field(gt=0, le=3600)] = Field(
        default=30.0,
        description="How long a body may stay away before its upload is ended with 408; after as long, one that came "
        "with less than 1 KiB/s on average is ended, too.",
    )
    job_timeout_s: Annotated[float, Field(gt=0, le=1_000_000)] = Field(
        default=3600.0, description="How long one attempt may run unless the caller says less."
    )
    lease_s: Annotated[float, Field(ge=1, le=3600)] = Field(
        default=15.0, description="How long after a worker's last sign of life its job is given to another one."
    )
    max_attempts: Annotated[int, Field(ge=1, le=100)] = Field(
        default=3, description="How often a job is tried before it is put aside as a dead letter."
    )
    keep_jobs_s: Annotated[float, Field(ge=60, le=1e9)] = Field(
        default=7 * 86400.0, description="How long finished jobs and their results are kept."
    )
    keep_uploads_s: Annotated[float, Field(ge=60, le=1e9)] = Field(
        default=86400.0, description="How long a video is kept after its last use; never less than its jobs need it."
    )
    keep_features_s: Annotated[float, Field(ge=60, le=1e9)] = Field(
        default=7 * 86400.0, description="How long features are kept after their last use."
    )
    worker_memory_mib: Annotated[int, Field(ge=0, le=1_073_741_824)] = Field(
        default=0, description="The process that runs models is ended when it grows beyond this; 0 sets no bound."
    )
    worker_stall_s: Annotated[float, Field(gt=0, le=1_000_000)] = Field(
        default=300.0, description="How long the process that runs models may make no progress before it is ended."
    )
    resident_models: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=2, description="How many models a worker keeps loaded."
    )
    drain_s: Annotated[float, Field(ge=0, le=3600)] = Field(
        default=30.0,
        description="On SIGTERM: how long the API lets requests finish, and a worker its job before handing it back.",
    )
    unready_s: Annotated[float, Field(ge=0, le=3600)] = Field(
        default=0.0,
        description="On SIGTERM: how long the API works on while it already says that it is not ready, so that a load "
        "balancer turns away from it before it refuses anything.",
    )
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        default=0, description="Where a worker serves /metrics, /livez and /readyz; 0 does not."
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Web pages that may call the API, such as `https://example.org`, separated by commas."
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Addresses whose X-Forwarded-* headers are believed, separated by commas."
    )
    webhook_secrets: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        repr=False,
        description="What webhooks are signed with: `whsec_` and the base64 of 24 to 64 bytes, separated by commas; "
        "each signs, so that one can follow another. Without any no webhooks are sent.",
    )
    webhook_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Hosts that webhooks may be sent to: names, `*.example.org` for all below one, `*` for any, "
        "separated by commas.",
    )
    video_url_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Hosts from which videos named by a URL are fetched, separated by commas: `example.org`, "
        "`*.example.org` for all below it, `*` for any; with a port, `example.org:8443`, where it is not the usual "
        "one. Without any, every URL is refused.",
    )
    video_url_timeout_s: Annotated[float, Field(gt=0, le=1_000_000)] = Field(
        default=300.0, description="How long a video may take to come from its URL, as a whole."
    )
    egress_private: bool = Field(
        default=False,
        description="Whether URLs that callers name may lead to private and loopback addresses and be plain `http`: "
        "`1` or `0`. For closed networks and tests: with it, callers reach into the network of the server, as far as "
        "the hosts allow.",
    )

    batch_ahead: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=64, description="How many items of a batch may wait or run as jobs at once; the rest follow them."
    )

    store_cache: Path | None = Field(
        default=None,
        description="Where files from object storage are kept for reading, by default `cache` in TAL_HOME; unused "
        "where TAL_STORE is a folder.",
    )
    store_cache_mib: Annotated[int, Field(ge=1, le=1_073_741_824)] = Field(
        default=20_480, description="How large that cache may grow; what was not used for longest goes first."
    )

    open: bool = Field(
        default=False,
        description="Whether API keys are never asked for: `1` or `0`. For networks where everybody may do everything. "
        "By default they are as soon as there is one, and off loopback nothing is served without any.",
    )

    keep_parts_s: Annotated[float, Field(ge=600, le=1e9)] = Field(
        default=86400.0, description="How long a resumable upload is kept after the last bytes of it came."
    )

    @field_validator(
        "cors_origins", "trusted_proxies", "webhook_secrets", "webhook_hosts", "video_url_hosts", mode="before"
    )
    @classmethod
    def _split_list(cls, listed: object) -> object:
        return tuple(part.strip() for part in listed.split(",") if part.strip()) if isinstance(listed, str) else listed

    @field_validator("webhook_hosts", "video_url_hosts")
    @classmethod
    def _check_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not HOST.fullmatch(host):
                raise ValueError(f"{host!r} is no host; *, *.example.org, example.org or example.org:8443 are")
        return hosts

    @field_validator("store", mode="before")
    @classmethod
    def _check_store(cls, place: object) -> object:
        if isinstance(place, Path):
            return str(place)
        if isinstance(place, str) and "://" in place and not BUCKET.fullmatch(place):
            raise ValueError("a folder or s3://bucket/prefix is needed")
        return place

    @field_validator("home")
    @classmethod
    def _expand_home(cls, home: Path) -> Path:
        return home.expanduser()

    @field_validator("trusted_torch_bundles", mode="before")
    @classmethod
    def _split_digests(cls, listed: object) -> object:
        if not isinstance(listed, str):
            return listed
        digests = tuple(part.strip().lower() for part in listed.split(",") if part.strip())
        for digest in digests:
            if not SHA256.fullmatch(digest):
                raise ValueError(f"{digest!r} is no digest; 64 hexadecimal digits are needed, commas between several")
        return digests

    @property
    def trusted_torch(self) -> tuple[str, ...]:
        """The digests that count: none unless TorchScript is allowed at all."""
        return self.trusted_torch_bundles if self.allow_torch_bundles else ()

    @property
    def store_folder(self) -> Path:
        """Of a store in a folder."""
        return Path(self.store).expanduser() if self.store else self.home / "store"

    @property
    def store_place(self) -> str:
        return str(self.store) if "://" in str(self.store) else str(self.store_folder)

    @property
    def store_cache_folder(self) -> Path:
        return self.store_cache.expanduser() if self.store_cache else self.home / "cache"

    @property
    def queue_file(self) -> Path:
        return self.home / "queue.db"

    @property
    def models_folder(self) -> Path:
        return self.home / "models"


def read() -> Settings:
    """The settings of this process; a bad value is told with its variable's name."""
    try:
        return Settings()
    except ValidationError as error:
        findings = (
            f"TAL_{str(finding['loc'][0]).upper()}: {finding['msg'].removeprefix('Value error, ')} "
            f"(found {finding['input']!r})"
            for finding in error.errors(include_url=False)
        )
        raise InvalidOptions("; ".join(findings)) from None


def describe() -> str:
    """The table of docs/settings.md."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "`$XDG_DATA_HOME/tal` or `~/.local/share/tal`" if name == "home" else f"`{field.default}`"
        unset = field.default in (None, ())
        rows.append(f"| `TAL_{name.upper()}` | {'none' if unset else default} | {field.description} |")
    return "\n".join(rows) + "\n"
