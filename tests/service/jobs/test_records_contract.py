"""What every shelf of records promises, asked of each backend through the protocol alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from service.jobs.records import Record, Records
from tests.service.jobs.harness import Harness

SOON_S = 0.2
BODIES = [
    {},
    {"empty": [], "none": None, "nested": {"a": [1, 2.5, True, {}]}},
    {"name": "Zürich 東京 🏊 \u2028 \x00 \x7f", "half": "odd \ud800", "lines": "a\nb\r\n"},
    {"small": 1e-300, "exact": 0.1 + 0.2, "large": 2**63, "spaced": "  two  spaces  "},
]


@pytest.fixture
def records(harness: Harness) -> Records:
    return harness.open_records()


def make(records: Records, kind: str, *ids: str) -> None:
    for record_id in ids:
        assert records.create(Record(kind, record_id)) is not None


def ids(found: list[Record]) -> list[str]:
    return [record.id for record in found]


def test_a_record_is_created_once_and_stays_as_it_was_written(records: Records, harness: Harness) -> None:
    now_s = harness.now_s()
    record = Record("batch", "k/1", {"n": 1}, due_at_s=now_s + 60.123456, expires_at_s=now_s + 90.5)
    made = records.create(record)
    assert made == replace(record, version=1)
    assert records.create(Record("batch", "k/1", {"n": 2})) is None
    assert records.get("batch", "k/1") == made
    assert records.get("batch", "k/2") is None
    assert records.get("key", "k/1") is None


@pytest.mark.parametrize("body", BODIES)
def test_any_body_comes_back_as_it_was(records: Records, body: dict[str, object]) -> None:
    made = records.create(Record("batch", "1", body))
    assert made is not None
    assert records.get("batch", "1") == made
    written = records.replace(replace(made, body={"again": body}))
    assert written is not None
    assert records.get("batch", "1") == written == Record("batch", "1", {"again": body}, version=2)


def test_a_record_outlives_its_handle(harness: Harness) -> None:
    first = harness.open_records()
    made = first.create(Record("batch", "1", {"n": 1}))
    first.close()
    assert harness.open_records().get("batch", "1") == made


def test_a_long_body_is_kept(records: Records) -> None:
    made = records.create(Record("batch", "1", {"items": ["x" * 50] * 20_000}))
    assert records.get("batch", "1") == made


def test_only_the_last_version_can_be_replaced(records: Records) -> None:
    first = records.create(Record("batch", "1", {"n": 1}))
    assert first is not None
    second = records.replace(replace(first, body={"n": 2}))
    assert second == Record("batch", "1", {"n": 2}, version=2)
    assert records.replace(replace(first, body={"n": 3})) is None
    assert records.get("batch", "1") == second
    assert records.replace(Record("batch", "2", version=1)) is None
    assert records.replace(Record("batch", "2", version=0)) is None
    assert records.get("batch", "2") is None


def test_no_update_of_many_at_once_is_lost(harness: Harness) -> None:
    records = harness.open_records()
    records.create(Record("batch", "1", {"n": 0}))

    def increment(_: int) -> None:
        while True:
            known = records.get("batch", "1")
            assert known is not None
            if records.replace(replace(known, body={"n": known.body["n"] + 1})):
                return

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(increment, range(60)))
    assert records.get("batch", "1") == Record("batch", "1", {"n": 60}, version=61)


def test_one_of_many_creates_it(records: Records) -> None:
    with ThreadPoolExecutor(20) as pool:
        made = list(pool.map(lambda number: records.create(Record("batch", "1", {"n": number})), range(40)))
    winners = [record for record in made if record is not None]
    assert winners == [records.get("batch", "1")]


def test_what_is_deleted_is_gone_from_everywhere_and_can_be_made_again(records: Records, harness: Harness) -> None:
    made = records.create(Record("batch", "1", due_at_s=harness.now_s() - 1, expires_at_s=harness.now_s() + SOON_S))
    assert made is not None
    records.delete("batch", "1")
    records.delete("batch", "1")
    assert records.get("batch", "1") is None
    assert records.page("batch") == records.due("batch") == []
    assert records.replace(made) is None
    assert records.create(Record("batch", "1")) == Record("batch", "1", version=1)
    harness.pass_time(SOON_S * 1.3)
    assert records.sweep() == 0
    assert ids(records.page("batch")) == ["1"]


def test_pages_follow_each_other_in_both_directions(records: Records) -> None:
    make(records, "batch", "b/2", "a/1", "b/10", "b/1", "b", "c/1", "b/~", "B/1")
    make(records, "other", "b/3")
    assert ids(records.page("batch")) == ["B/1", "a/1", "b", "b/1", "b/10", "b/2", "b/~", "c/1"]
    assert ids(records.page("batch", newest_first=True)) == ["c/1", "b/~", "b/2", "b/10", "b/1", "b", "a/1", "B/1"]
    owned = ["b/1", "b/10", "b/2", "b/~"]
    for newest_first, wanted in ((False, owned), (True, owned[::-1])):
        pages, beyond = [], None
        while page := ids(records.page("batch", "b/", beyond, 2, newest_first=newest_first)):
            pages.append(page)
            beyond = page[-1]
        assert pages == [wanted[:2], wanted[2:]]


@pytest.mark.parametrize(
    ("beyond", "upwards", "downwards"),
    [
        ("a", ["b/1", "b/2"], []),
        ("b/1", ["b/2"], []),
        ("b/15", ["b/2"], ["b/1"]),
        ("c", [], ["b/2", "b/1"]),
        ("", ["b/1", "b/2"], []),
        ("ü", [], ["b/2", "b/1"]),
    ],
)
def test_a_page_may_begin_beyond_an_id_that_is_not_there(
    records: Records, beyond: str, upwards: list[str], downwards: list[str]
) -> None:
    make(records, "batch", "a/1", "b/1", "b/2", "c/1")
    assert ids(records.page("batch", "b/", beyond)) == upwards
    assert ids(records.page("batch", "b/", beyond, newest_first=True)) == downwards


def test_no_more_is_given_than_was_asked_for(records: Records, harness: Harness) -> None:
    for number in range(5):
        records.create(Record("batch", str(number), due_at_s=harness.now_s() - number - 1))
    for limit in (-1, 0, 1, 4, 5, 6, 100_000):
        wanted = min(max(0, limit), 5)
        assert len(records.page("batch", limit=limit)) == len(records.due("batch", limit)) == wanted


def test_what_is_due_comes_the_longest_overdue_first(records: Records, harness: Harness) -> None:
    now_s = harness.now_s()
    for record_id, due_at_s in (("a", now_s - 1), ("b", now_s - 3), ("c", now_s + SOON_S), ("d", None)):
        records.create(Record("message", record_id, due_at_s=due_at_s))
    records.create(Record("other", "e", due_at_s=now_s - 9))
    assert ids(records.due("message")) == ["b", "a"]
    harness.pass_time(SOON_S * 1.3)
    assert ids(records.due("message")) == ["b", "a", "c"]


def test_a_replaced_record_is_due_at_its_new_moment_or_never(records: Records, harness: Harness) -> None:
    now_s = harness.now_s()
    first = records.create(Record("message", "1", due_at_s=now_s - 1))
    assert first is not None
    later = records.replace(replace(first, due_at_s=now_s + 60))
    assert later is not None
    assert records.due("message") == []
    sooner = records.replace(replace(later, due_at_s=now_s - 2))
    assert sooner is not None
    assert records.due("message") == [sooner]
    done = records.replace(replace(sooner, due_at_s=None))
    assert done is not None
    assert (records.due("message"), records.get("message", "1")) == ([], done)


def test_an_expired_record_is_hidden_at_once_and_swept_later(records: Records, harness: Harness) -> None:
    now_s = harness.now_s()
    made = records.create(Record("upload", "1", due_at_s=now_s - 1, expires_at_s=now_s + SOON_S))
    assert made is not None
    make(records, "upload", "2")
    assert ids(records.page("upload")) == ["1", "2"]
    assert records.sweep() == 0
    harness.pass_time(SOON_S * 1.3)
    assert records.get("upload", "1") is None
    assert ids(records.page("upload")) == ids(records.page("upload", newest_first=True, limit=1)) == ["2"]
    assert ids(records.page("upload", limit=1)) == ["2"]
    assert records.due("upload") == []
    assert records.replace(replace(made, expires_at_s=None)) is None
    assert (records.sweep(), records.sweep()) == (1, 0)
    assert ids(records.page("upload")) == ["2"]


def test_an_expired_record_makes_room_for_another(records: Records, harness: Harness) -> None:
    now_s = harness.now_s()
    records.create(Record("upload", "1", {"n": 1}, due_at_s=now_s - 1, expires_at_s=now_s + SOON_S))
    harness.pass_time(SOON_S * 1.3)
    made = records.create(Record("upload", "1", {"n": 2}))
    assert made == records.get("upload", "1") == Record("upload", "1", {"n": 2}, version=1)
    assert (records.due("upload"), records.sweep()) == ([], 0)
    assert ids(records.page("upload")) == ["1"]


def test_a_replaced_record_expires_at_its_new_moment(records: Records, harness: Harness) -> None:
    made = records.create(Record("upload", "1", expires_at_s=harness.now_s() + SOON_S))
    assert made is not None
    kept = records.replace(replace(made, expires_at_s=harness.now_s() + 60))
    harness.pass_time(SOON_S * 1.3)
    assert records.sweep() == 0
    assert records.get("upload", "1") == kept
