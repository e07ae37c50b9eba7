"""Keys on records: made once, kept as digests, revoked for good; and the ring that holds them in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from service.errors import InvalidOptions
from service.jobs import keys
from service.jobs.keys import KIND, Allowance, KeyRing, KeyShelf
from service.jobs.records import Record
from service.jobs.sqlite_records import SqliteRecords


@pytest.fixture
def records(tmp_path: Path) -> Iterator[SqliteRecords]:
    records = SqliteRecords(tmp_path / "queue.db")
    yield records
    records.close()


def test_a_key_is_kept_as_its_digest_alone(records: SqliteRecords) -> None:
    allowance = Allowance(5.0, 20, 3600.0)
    key, text = KeyShelf(records).create("the lab", ("submit", "read"), allowance, 2e9)
    assert keys.FORM.fullmatch(text)
    assert KeyShelf(records).find(key.id) == key
    assert (key.name, key.scopes, key.allowance, key.expires_at_s) == ("the lab", ("submit", "read"), allowance, 2e9)
    kept = json.dumps([dict(record.body) for record in records.page(KIND)])
    assert key.hash in kept
    assert text.rsplit("_", 1)[1] not in kept


def test_an_expired_key_stays_on_the_shelf_so_that_the_service_does_not_become_open(records: SqliteRecords) -> None:
    key, _ = KeyShelf(records).create("x", ("read",), Allowance(), 1.0)
    records.sweep()
    assert [(one.id, one.state(2.0)) for one in KeyShelf(records).all()] == [(key.id, "expired")]
    assert key.state(0.5) == "active"


def test_a_revocation_is_for_good_and_twice_no_error(records: SqliteRecords) -> None:
    shelf = KeyShelf(records)
    key, _ = shelf.create("x", ("read",), Allowance(), None)
    assert shelf.revoke(key.id) == shelf.revoke(key.id) == replace(key, revoked=True)
    assert shelf.find(key.id).state(0.0) == "revoked"
    with pytest.raises(InvalidOptions, match="no key 'nope'"):
        shelf.revoke("nope")


def test_a_revocation_is_written_over_a_change_that_came_between(records: SqliteRecords, tmp_path: Path) -> None:
    key, _ = KeyShelf(records).create("x", ("read",), Allowance(), None)

    class Busy(SqliteRecords):
        def replace(self, record: Record) -> Record | None:
            if record.version == 1:
                super().replace(replace(record, body={**record.body, "name": "y", "revoked": False}))
            return super().replace(record)

    busy = Busy(tmp_path / "queue.db")
    assert KeyShelf(busy).revoke(key.id).name == "y"
    busy.close()
    assert KeyShelf(records).find(key.id).revoked


def test_admin_may_everything_and_others_what_they_are_for(records: SqliteRecords) -> None:
    shelf = KeyShelf(records)
    admin, reader = (shelf.create("x", (scope,), Allowance(), None)[0] for scope in ("admin", "read"))
    assert [admin.may(scope) for scope in keys.SCOPES] == [True, True, True]
    assert [reader.may(scope) for scope in keys.SCOPES] == [False, True, False]


def test_a_name_is_one_line(records: SqliteRecords) -> None:
    for name in ("", "a\nb", "x" * 101):
        with pytest.raises(InvalidOptions, match="name"):
            KeyShelf(records).create(name, ("read",), Allowance(), None)


def test_all_keys_are_read_however_many(records: SqliteRecords, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "AT_ONCE", 2)
    made = {KeyShelf(records).create(str(number), ("read",), Allowance(), None)[0].id for number in range(5)}
    assert {key.id for key in KeyShelf(records).all()} == made


def test_fields_of_a_later_release_are_passed_over(records: SqliteRecords) -> None:
    key, _ = KeyShelf(records).create("x", ("read",), Allowance(), None)
    (record,) = records.page(KIND)
    later = {**record.body, "colour": "red", "allowance": {**record.body["allowance"], "videos": 3}}
    records.replace(replace(record, body=later))
    assert KeyShelf(records).find(key.id) == key


def test_a_ring_knows_how_old_it_is_and_whose_a_key_is(records: SqliteRecords) -> None:
    now_s = 100.0
    ring = KeyRing(records, lambda: now_s)
    assert ring.is_older(1e9)
    ring.read()
    assert not ring.needed
    key, text = KeyShelf(records).create("x", ("read",), Allowance(), None)
    assert ring.holder(text) is None
    now_s += 4.0
    assert not ring.is_older(4.5)
    assert ring.is_older(4.0)
    ring.read()
    assert ring.holder(text) == ring.get(key.id) == key
    assert ring.needed
    other = f"tal_{key.id}_{'0' * 64}"
    assert [ring.holder(given) for given in (other, text.upper(), text + "0", "", "é")] == [None] * 5


def test_a_ring_whose_records_were_lost_lets_nobody_in(records: SqliteRecords) -> None:
    key, text = KeyShelf(records).create("x", ("read",), Allowance(), None)
    ring = KeyRing(records)
    ring.read()
    records.delete(KIND, key.id)
    ring.read()
    assert (ring.needed, ring.holder(text)) == (True, None)
