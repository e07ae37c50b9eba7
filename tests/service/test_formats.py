"""One answer, seven ways to write it down; each is read back by what reads such files."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import formats
from service.localization import Activations, Localization, ModelInfo, Segment, VideoInfo

INFO = VideoInfo(
    duration_s=3700.5,
    num_frames=92512,
    fps=25.0,
    is_vfr=False,
    width_px=640,
    height_px=360,
    rotation_deg=0,
    codec="h264",
    container="mov,mp4",
    start_s=0.0,
)


def answer(name: str = "race.mp4", *segments: Segment) -> Localization:
    given = segments or (
        Segment(3599.9996, 3661.25, "long jump", 0.91),
        Segment(1.5, 4.0, "run <fast> & high", 0.5),
    )
    return Localization(
        name, INFO, ModelInfo("m", "1.0.0", "0" * 64, "cpu"), given, {"decode": 1.23456}, ("cut short",)
    )


def test_json_of_one_video_is_an_object_and_of_several_a_list() -> None:
    one = json.loads(formats.write([answer()], "json"))
    assert one["segments"][0] == {"start_s": 3599.9996, "end_s": 3661.25, "label": "long jump", "score": 0.91}
    assert one["video"]["name"] == "race.mp4"
    assert one["warnings"] == ["cut short"]
    assert len(json.loads(formats.write([answer(), answer()], "json"))) == 2


def test_json_lines_hold_a_document_each() -> None:
    lines = formats.write([answer("a.mp4"), answer("b.mp4")], "jsonl").splitlines()
    assert [json.loads(line)["video"]["name"] for line in lines] == ["a.mp4", "b.mp4"]


def test_csv_survives_commas_and_quotes_in_labels() -> None:
    text = formats.write([answer("a.mp4", Segment(0, 1, 'say "hi", twice', 0.5))], "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert rows == [{"video": "a.mp4", "start_s": "0", "end_s": "1", "label": 'say "hi", twice', "score": "0.5"}]


def test_activitynet_results_are_keyed_by_video_without_ending() -> None:
    document = json.loads(formats.write([answer("v_one.mp4"), answer("v_two.mkv")], "activitynet"))
    assert set(document["results"]) == {"v_one", "v_two"}
    assert document["results"]["v_one"][0]["segment"] == [3599.9996, 3661.25]


def test_activitynet_never_lets_one_video_hide_another() -> None:
    document = json.loads(formats.write([answer("a.mp4"), answer("a.mkv")], "activitynet"))
    assert set(document["results"]) == {"a.mp4", "a.mkv"}


def test_subtitles_are_in_order_of_time_with_rounded_clocks() -> None:
    vtt = formats.write([answer()], "vtt")
    assert vtt.startswith("WEBVTT\n\n")
    assert re.findall(r"(\S+) --> (\S+)", vtt) == [("00:00:01.500", "00:00:04.000"), ("01:00:00.000", "01:01:01.250")]
    assert "run &lt;fast&gt; &amp; high (50%)" in vtt
    srt = formats.write([answer()], "srt")
    assert srt.startswith("1\n00:00:01,500 --> 00:00:04,000\n")
    assert "\n2\n01:00:00,000 --> 01:01:01,250\n" in srt


def test_a_table_says_so_when_nothing_was_found() -> None:
    empty = Localization("quiet.mp4", INFO, ModelInfo("m", "1", "0" * 64, "cpu"), (), {})
    assert "no actions found" in formats.write([empty], "table")
    assert "warning: cut short" in formats.write([answer()], "table")


@pytest.mark.parametrize("wanted", ["table", "jsonl", "csv", "activitynet", "json"])
def test_every_format_of_several_videos_ends_with_a_line_end(wanted: formats.Format) -> None:
    assert formats.write([answer("a.mp4"), answer("b.mp4")], wanted).endswith("\n")


seconds = st.floats(0, 1e5)
scores = st.floats(0, 1)
words = st.text(max_size=12)


@st.composite
def localizations(draw: st.DrawFn) -> Localization:
    segments = st.builds(Segment, start_s=seconds, end_s=seconds, label=words, score=scores)
    labels = draw(st.lists(words, max_size=3, unique=True))
    times_s = draw(st.lists(seconds, max_size=4))
    rows = tuple(tuple(draw(scores) for _ in times_s) for _ in labels)
    return Localization(
        video_name=draw(words),
        video=VideoInfo(
            draw(seconds), draw(st.integers(0, 10**6)), 29.97, draw(st.booleans()), 9, 7, 90, "h264", "mp4", -0.5
        ),
        model=ModelInfo(draw(words), "1", "0" * 64, "cpu"),
        segments=tuple(draw(st.lists(segments, max_size=3))),
        timings_s=draw(st.dictionaries(st.sampled_from(["probe", "decode", "decode_s", "total"]), seconds)),
        warnings=tuple(draw(st.lists(words, max_size=2))),
        details=draw(st.dictionaries(words, words, max_size=2)),
        activations=draw(st.sampled_from([None, Activations(tuple(labels), tuple(times_s), rows)])),
    )


@given(localizations())
def test_a_document_is_read_back_as_the_answer_within_rounding(given_answer: Localization) -> None:
    document = json.loads(json.dumps(formats.as_document(given_answer)))
    read = formats.from_document(document)
    assert formats.as_document(read) == document
    assert (read.video_name, read.warnings, read.details) == (
        given_answer.video_name,
        given_answer.warnings,
        given_answer.details,
    )
    assert [s.start_s for s in read.segments] == pytest.approx([s.start_s for s in given_answer.segments], abs=1e-4)
    assert set(read.timings_s) == set(given_answer.timings_s)
    assert (read.activations is None) == (given_answer.activations is None)


def test_a_document_of_a_later_release_can_be_read() -> None:
    document = {"id": "j1", **formats.as_document(answer())}
    document["video"]["sha256"] = "0" * 64
    document["segments"][0]["track"] = 7
    assert formats.write([formats.from_document(document)], "vtt") == formats.write([answer()], "vtt")


def test_curves_stand_in_the_document_only_where_there_are_some() -> None:
    assert "activations" not in formats.as_document(answer())
