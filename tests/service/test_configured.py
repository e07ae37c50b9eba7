"""What settings and a command line come to: a model's folder, and options for graphs and decoders."""

from __future__ import annotations

import importlib
from dataclasses import replace

import pytest

from service import configured
from service.errors import ModelNotFound, StoreMismatch
from service.jobs.records import Record
from service.settings import Settings


@pytest.fixture
def config(tmp_path) -> Settings:
    (tmp_path / "models" / "known").mkdir(parents=True)
    return Settings(home=tmp_path, device="cpu", threads=3, gpu_memory_mib=2, decode_threads=5, max_video_mib=7)


def test_a_model_is_a_name_or_a_folder(config, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    assert configured.find_model("known", config) == tmp_path / "models" / "known"
    assert configured.find_model(str(tmp_path / "elsewhere"), config) == tmp_path / "elsewhere"


def test_without_a_name_the_model_that_ships_is_used(config, tmp_path):
    shipped = configured.SHIPPED_FOLDER / configured.SHIPPED
    assert configured.find_model(None, config) == configured.find_model("marionette", config) == shipped
    assert configured.find_model(None, config.model_copy(update={"default_model": "known"})).name == "known"
    (tmp_path / "models" / "marionette").mkdir()
    assert configured.find_model(None, config) == tmp_path / "models" / "marionette"


def test_a_model_that_is_not_there_is_told_with_those_that_are(config):
    with pytest.raises(ModelNotFound, match=r"model 'other' is neither.*: known; shipped: marionette$"):
        configured.find_model("other", config)


def test_a_device_on_the_command_line_goes_before_the_settings(config):
    options = configured.onnx_options(config, None)
    assert (options.device, options.threads, options.gpu_memory_bytes) == ("cpu", 3, 2 * 1024**2)
    assert configured.onnx_options(config, "cuda") == replace(options, device="cuda")


def test_decoding_has_the_limits_that_are_set(config):
    limits = configured.decoding(config).limits
    assert (limits.threads, limits.max_file_bytes) == (5, 7 * 1024**2)


def test_without_redis_a_file_holds_the_queue_and_belongs_to_one_store(config, tmp_path):
    held = configured.open_backends(config)
    held.close()
    assert (tmp_path / "queue.db").exists()
    assert held.store.id == configured.open_store(config).id
    with pytest.raises(StoreMismatch):
        configured.open_backends(config.model_copy(update={"store": tmp_path / "another"}))


@pytest.mark.needs_redis
def test_with_redis_jobs_and_records_are_there_and_no_file_is_made(config, tmp_path):
    redis_server = importlib.import_module("tests.service.jobs.redis_server")
    with redis_server.running(tmp_path) as url:
        redis = config.model_copy(update={"redis_url": url})
        held, again = configured.open_backends(redis), configured.open_backends(redis)
        made = held.records.create(Record("batch", "1", {"n": 1}))
        assert again.records.get("batch", "1") == made
        held.close()
        again.close()
    assert not (tmp_path / "queue.db").exists()


def test_the_queue_behaves_as_the_settings_say(config):
    policy = configured.queue_policy(config.model_copy(update={"lease_s": 7.0, "max_attempts": 5}))
    assert (policy.lease_s, policy.max_attempts) == (7.0, 5)
