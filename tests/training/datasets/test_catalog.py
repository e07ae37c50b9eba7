"""Every public form is read whole; what is mended is told; what is wrong is told with its place, all at once."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.errors import InvalidOptions
from tests.training.datasets import public_files
from tests.training.datasets.public_files import document, moment, text, video
from training.datasets import epic_kitchens
from training.datasets.catalog import READERS, read
from training.datasets.validation import check
from training.evaluation.protocols import PROTOCOLS


def instances(dataset):
    truth = dataset.ground_truth
    columns = zip(truth.video_indices, truth.segments_s.tolist(), truth.label_indices, strict=True)
    return [(truth.videos[video], *segment, truth.labels[label]) for video, segment, label in columns]


def told(notes, *parts):
    return any(all(part in note for part in parts) for note in notes)


def refusal(*arguments, **options):
    with pytest.raises(InvalidOptions) as caught:
        read(*arguments, **options)
    return str(caught.value)


def test_thumos14_is_read_from_one_text_file_per_class_and_subset(tmp_path):
    dataset = read("thumos14", public_files.thumos14(tmp_path))
    assert instances(dataset) == [
        ("video_test_0000270", 3.0, 4.0, "Ambiguous"),
        ("video_test_0000270", 1.0, 2.0, "Billiards"),
        ("video_validation_0000001", 1.0, 2.5, "CliffDiving"),
        ("video_validation_0000001", 1.0, 2.5, "Diving"),
        ("video_validation_0000002", 4.0, 5.0, "Diving"),
    ]
    assert dataset.ground_truth.labels == ("Billiards", "CliffDiving", "Diving", "Ambiguous")
    assert np.isnan(dataset.ground_truth.durations_s).all()
    assert dataset.subsets["video_test_0000270"] == "test"
    assert told(dataset.notes, "CliffDiving is a kind of Diving: 1 of its 1")
    assert told(dataset.notes, "1 instances are Ambiguous")
    assert told(dataset.notes, "video_test_0000270 (wrong labels)")
    assert PROTOCOLS[dataset.protocol].ignored_label in dataset.ground_truth.labels


def test_a_subset_keeps_its_videos_and_the_labels_of_all(tmp_path):
    dataset = read("thumos14", public_files.thumos14(tmp_path), "val")
    assert dataset.ground_truth.videos == ("video_validation_0000001", "video_validation_0000002")
    assert "Billiards" in dataset.ground_truth.labels
    assert dataset.ground_truth.elsewhere == {"video_test_0000270": "test"}


def test_thumos14_without_a_class_list_has_the_classes_of_its_files(tmp_path):
    text(tmp_path / "all" / "Shotput_test.txt", "video_test_0000001 1 2")
    assert read("thumos14", tmp_path / "all").ground_truth.labels == ("Shotput",)


def test_broken_lines_of_thumos14_are_told_with_their_numbers_all_at_once(tmp_path):
    text(
        tmp_path / "Diving_val.txt", "video_validation_1 1.0 2.0", "video_validation_1 1.0", "video_validation_1 x nan"
    )
    text(tmp_path / "Golf_val.txt", "video_validation_1 5 4")
    text(tmp_path / "detclasslist.txt", "26 Diving", "27", "26 Again")
    message = refusal("thumos14", tmp_path)
    for part in (
        "7 problems in thumos14:",
        "Diving_val.txt, line 2: 'video_validation_1 1.0' is not a video, a start and an end",
        "Diving_val.txt, line 3: start is 'x'; a finite number is needed",
        "Diving_val.txt, line 3: end is 'nan'",
        "Golf_val.txt, line 1: segment [5.0, 4.0] ends before it starts",
        "detclasslist.txt, line 2: '27' is not a class",
        "detclasslist.txt, line 3: class '26' is there already",
        "label 'Golf' is none of the 1 classes",
    ):
        assert part in message


def test_a_folder_without_thumos14_files_says_what_they_are_called(tmp_path):
    assert "<Class>_val.txt" in refusal("thumos14", tmp_path)


def test_thumos14_as_json_gives_frame_rates_and_reads_times_that_are_text(tmp_path):
    entry = {"subset": "Validation", "duration": 20.0, "fps": 25, "annotations": []}
    entry["annotations"] = [{"segment": ["1.5", "2.5"], "segment(frames)": [37, 62], "label": "Diving", "label_id": 0}]
    path = document(tmp_path / "t.json", {"database": {"a": entry, "b": video(9.0, (1.0, 2.0, "Shotput"))}})
    dataset = read("thumos14", path, "val")
    assert instances(dataset) == [("a", 1.5, 2.5, "Diving")]
    assert dataset.fps == {"a": 25.0}
    assert told(dataset.notes, "1 segments have their times as text")


def test_activitynet_has_the_leaves_of_its_taxonomy_as_labels_and_is_mended_with_notes(tmp_path):
    database = {
        "over": video(10.0, (8.0, 11.5, "Diving")),
        "empty": video(10.0, (3.0, 3.0, "Diving"), (1.0, 2.0, "Diving"), (1.0, 2.0, "Diving")),
        "after": video(10.0, (10.5, 12.0, "Diving")),
        "typo": video(10.0, (3.98, 40.02, "Diving")),
        "unlabelled": video(10.0) | {"subset": "testing"},
    }
    path = public_files.activitynet(tmp_path / "activity_net.v1-3.min.json", database)
    dataset = read("activitynet-1.3", tmp_path)
    assert dataset.ground_truth.labels == ("Archery", "Diving")
    assert instances(dataset) == [
        ("over", 8.0, 10.0, "Diving"),
        ("empty", 1.0, 2.0, "Diving"),
        ("empty", 1.0, 2.0, "Diving"),
    ]
    assert check(dataset) == ()
    assert told(dataset.notes, "1 segments reach beyond their video; cut", "over [8, 11.5] by 1.5 s")
    assert told(dataset.notes, "1 segments have no length; left out", "empty [3, 3]")
    assert told(dataset.notes, "1 segments lie outside their video; left out", "after")
    assert told(dataset.notes, "1 segments lie in their video with less than 50%; left out", "typo [3.98, 40.02]")
    assert told(dataset.notes, "1 instances repeat another one exactly; kept")
    assert read("activitynet-1.3", path, "test").ground_truth.videos == ("unlabelled",)


def test_as_published_nothing_is_cut_or_left_out(tmp_path):
    database = {"a": video(10.0, (8.0, 11.5, "Diving"), (3.0, 3.0, "Diving"))}
    path = public_files.activitynet(tmp_path / "a.json", database)
    dataset = read("activitynet-1.3", path, as_published=True)
    assert instances(dataset) == [("a", 8.0, 11.5, "Diving"), ("a", 3.0, 3.0, "Diving")]
    assert told(dataset.notes, "reach beyond their video; kept as published")
    assert len(check(dataset)) == 2


def test_everything_wrong_with_a_json_database_is_told_at_once(tmp_path):
    database = {
        "a": video(10.0, (4.0, 2.0, "Diving"), (1.0, 2.0, "Cooking")),
        "b": video(float("nan")),
        "c": {"annotations": [{"segment": [1], "label": "Diving"}, {"segment": [1, 2], "label": 3}, 4]},
        "d": 5,
        "e": {"annotations": "none"},
        "f": video(-1.0),
    }
    message = refusal("activitynet-1.3", public_files.activitynet(tmp_path / "a.json", database))
    for part in (
        "9 problems in activitynet-1.3:",
        "video 'a', item 0: segment [4.0, 2.0] ends before it starts",
        "label 'Cooking' is none of the 2 classes",
        "video 'b': duration is nan; a finite number is needed",
        "video 'c', item 0: segment is [1]; [start, end]",
        "video 'c', item 1: label is 3",
        "video 'c', item 2: segment is None",
        "video 'd': is int",
        "video 'e': annotations is str",
        "video 'f': duration is -1.0; a number above 0",
    ):
        assert part in message


def test_a_json_key_that_is_there_twice_is_refused(tmp_path):
    path = text(tmp_path / "a.json", '{"database": {"a": {"annotations": []}, "a": {"annotations": []}}}')
    for name in ("json", "thumos14", "multithumos"):
        assert "key 'a' is there more than once" in refusal(name, path)


def test_bmn_files_are_joined_and_say_what_their_features_cover(tmp_path):
    head = "video,numFrame,seconds,fps,rfps,subset,featureFrame"
    text(tmp_path / "video_info_new.csv", head, "v_a,300,10,30,29.7,training,240", "v_b,250,10,25,25,validation,250")
    entry = {"duration_second": 10.0, "duration_frame": 300, "feature_frame": 240, "annotations": []}
    diving = [{"segment": [1.0, 10.4], "label": "Diving"}]
    path = document(tmp_path / "anet_anno_action.json", {"v_a": entry | {"annotations": diving}, "v_b": entry})
    text(tmp_path / "action_name.csv", "action", "Archery", "Diving")
    dataset = read("activitynet-bmn", tmp_path, "training")
    assert instances(dataset) == [("v_a", 1.0, 10.0, "Diving")]
    assert dataset.fps == {"v_a": 29.7}
    assert dataset.ground_truth.labels == ("Archery", "Diving")
    assert told(dataset.notes, "1 videos cover a span", "2.0 s")
    text(
        tmp_path / "video_info_new.csv", head, "v_c,300,10,30,0,training,240", "v_c,300,10,30,30,training,240", "v_b,1"
    )
    message = refusal("activitynet-bmn", path)
    for part in (
        "line 2: rfps is '0'; a number above 0",
        "line 3: video 'v_c' is there already",
        "line 4: the row ends before column 'rfps'",
        "video 'v_c' is not in anet_anno_action.json",
        "video 'v_a': is not in video_info_new.csv",
    ):
        assert part in message


def test_multithumos_is_read_from_texts_and_from_both_json_forms(tmp_path):
    text(tmp_path / "class_list.txt", "1 BaseballPitch", "2 Run")
    text(tmp_path / "annotations" / "Run.txt", "video_validation_1 1.0 2.0", "video_test_2 3.0 4.0")
    text(tmp_path / "annotations" / "BaseballPitch.txt", "video_validation_1 1.5 2.0")
    expected = [("video_validation_1", 1.5, 2.0, "BaseballPitch"), ("video_validation_1", 1.0, 2.0, "Run")]
    assert instances(read("multithumos", tmp_path / "annotations", "validation")) == expected
    actions = [[1, 1.5, 2.0], [2, 1.0, 2.0]]
    entries = {"video_validation_1": {"subset": "training", "duration": 9.5, "actions": actions}}
    numbered = read("multithumos", document(tmp_path / "m.json", entries), "training")
    assert instances(numbered) == expected
    assert numbered.ground_truth.durations_s.tolist() == [9.5]
    database = {"video_validation_1": video(9.5, *(row[1:] for row in expected))}
    assert instances(read("multithumos", document(tmp_path / "n.json", {"database": database}))) == expected
    alone = read("multithumos", document(tmp_path / "alone" / "sub" / "m.json", entries))
    assert alone.ground_truth.labels == ("1", "2")
    assert told(alone.notes, "no class_list.txt")


def test_actions_by_number_are_refused_where_the_number_is_of_no_class(tmp_path):
    text(tmp_path / "class_list.txt", "1 Run")
    actions = [[2, 0, 1], [1, 2], [1, "x", 2]]
    path = document(tmp_path / "m.json", {"a": {"duration": 9, "actions": actions}, "b": {}})
    message = refusal("multithumos", path)
    for part in ("item 0: class 2", "item 1: [1, 2] is not", "item 2: start is 'x'", "video 'b': 'actions' is missing"):
        assert part in message


def test_charades_is_read_with_names_and_mended_with_notes(tmp_path):
    dataset = read("charades", public_files.charades(tmp_path), "train")
    assert instances(dataset) == [
        ("AAAA1", 11.9, 21.2, "Washing a window"),
        ("AAAA1", 0.0, 12.6, "Holding a broom"),
        ("CCCC3", 5.0, 12.0, "Washing a window"),
    ]
    assert dataset.ground_truth.videos == ("AAAA1", "BBBB2", "CCCC3")
    assert told(dataset.notes, "end before they start; left out", "CCCC3 [9, 8]")
    assert told(dataset.notes, "lie outside their video; left out", "CCCC3 [12.5, 13]")
    assert dataset.ground_truth.elsewhere == {"DDDD4": "test"}
    assert read("charades", tmp_path / "Charades_v1_test.csv").subsets == {"DDDD4": "test"}


def test_charades_without_classes_has_codes_and_its_json_counts_from_0(tmp_path):
    path = text(tmp_path / "a" / "Charades_v1_train.csv", "id,actions,length", "A,c092 1 2,5")
    dataset = read("charades", path)
    assert instances(dataset) == [("A", 1.0, 2.0, "c092")]
    assert told(dataset.notes, "no Charades_v1_classes.txt")
    text(tmp_path / "Charades_v1_classes.txt", "c000 Holding clothes")
    entries = {"A": {"subset": "training", "duration": 5, "actions": [[0, 1, 2]]}}
    numbered = read("charades", document(tmp_path / "charades.json", entries))
    assert instances(numbered) == [("A", 1.0, 2.0, "Holding clothes")]


def test_broken_rows_of_charades_are_told_with_their_lines_all_at_once(tmp_path):
    public_files.charades(tmp_path)
    rows = ["A,c092 1 2,nan", "A,c092 1 2,5", 'B,"c092 1;c999 1 2;c092 x 2",5', "C"]
    message = refusal("charades", text(tmp_path / "Charades_v1_train.csv", "id,actions,length", *rows))
    for part in (
        "6 problems in charades:",
        "line 2: length is 'nan'",
        "line 3: video 'A' is there already; each may come once",
        "line 4: action 'c092 1' is not",
        "line 4: class 'c999' is none of the 2",
        "line 4: start is 'x'",
        "Charades_v1_train.csv, line 5: the row ends before column 'actions'",
    ):
        assert part in message
    message = refusal("charades", text(tmp_path / "Charades_v1_train.csv", "id,length", "A,5"))
    assert "columns actions are missing; it has id, length" in message


@pytest.mark.parametrize(
    ("task", "labels"),
    [("verb", ["open", "take"]), ("noun", ["cupboard", "plate"]), ("action", ["open cupboard", "take plate"])],
)
def test_epic_kitchens_is_read_for_each_task(tmp_path, task, labels):
    dataset = read("epic-kitchens-100", public_files.epic_kitchens(tmp_path), "train", task=task)
    assert instances(dataset) == [("P01_01", 0.14, 3.37, labels[0]), ("P01_01", 3662.5, 3664.0, labels[1])]
    assert dataset.fps == {"P01_01": 59.94}
    assert dataset.ground_truth.durations_s.tolist() == [4000.0]
    assert dataset.notes == ()


def test_epic_kitchens_alone_has_numbers_for_labels_and_no_durations(tmp_path):
    public_files.epic_kitchens(tmp_path / "all")
    (tmp_path / "EPIC_100_train.csv").write_bytes((tmp_path / "all" / "EPIC_100_train.csv").read_bytes())
    dataset = read("epic-kitchens-100", tmp_path / "EPIC_100_train.csv", task="action")
    assert dataset.ground_truth.labels == ("verb-0 noun-2", "verb-3 noun-8")
    assert np.isnan(dataset.ground_truth.durations_s).all()
    assert len(dataset.notes) == 3


def test_broken_rows_of_epic_kitchens_are_told_with_their_lines_all_at_once(tmp_path):
    public_files.epic_kitchens(tmp_path)
    path = tmp_path / "EPIC_100_train.csv"
    head = path.read_text(encoding="utf-8").splitlines()[0]
    rows = ["n1,P01_01,3.5,00:00:04,open,3,door,8,[8]", "n1,P01_01,00:00:01,00:00:02,open,7,door,8,[8]"]
    message = refusal("epic-kitchens-100", text(path, head, *rows))
    assert "line 2: start_timestamp is '3.5'; a time like 00:01:02.34 is needed" in message
    assert "line 3: narration_id 'n1' is there already" in message
    assert "line 3: verb_class is '7'" in message
    assert "accepted are verb, noun, action" in refusal("epic-kitchens-100", path, task="adverb")


def test_ego4d_has_clips_for_videos_and_only_primary_labels(tmp_path):
    labels = [moment(1.0, 2.0, "wash"), moment(3.0, 4.0, "look", primary=False), moment(5.0, 481.0, "wash")]
    public_files.ego4d(tmp_path / "moments_train.json", *labels)
    dataset = read("ego4d-mq", tmp_path, "train")
    assert instances(dataset) == [("clip-1", 1.0, 2.0, "wash"), ("clip-1", 5.0, 480.0, "wash")]
    assert dataset.ground_truth.videos == ("clip-1", "clip-2")
    assert dataset.ground_truth.durations_s.tolist() == [480.0, 480.0]
    assert told(dataset.notes, "1 labels are not primary")
    assert dataset.subsets == {"clip-1": "train", "clip-2": "train"}


def test_ego4d_counts_times_in_the_video_from_where_the_clip_begins(tmp_path):
    window = {"video_start_sec": 10.0, "video_end_sec": 30.0, "video_start_frame": 300, "video_end_frame": 900}
    label = {"video_start_time": 12.5, "video_end_time": 14.0, "start_time": 99.0, "label": "wash", "primary": True}
    good = window | {"clip_uid": "good", "annotations": [{"labels": [label]}]}
    early = good | {"clip_uid": "early", "video_start_sec": -0.02, "video_start_frame": -1}
    odd = good | {"clip_uid": "odd", "video_end_frame": 301}
    content = {"videos": [{"split": "test", "clips": [good, early, odd]}]}
    dataset = read("ego4d-mq", document(tmp_path / "moments_test_unannotated.json", content), "test")
    assert instances(dataset) == [("good", 2.5, 4.0, "wash"), ("early", 12.5, 14.0, "wash")]
    assert dataset.fps == {"good": 30.0, "early": 30.0}
    assert told(dataset.notes, "1 clips have frames that contradict their seconds; left out: odd")


def test_broken_labels_of_ego4d_are_told_with_their_places(tmp_path):
    path = public_files.ego4d(tmp_path / "moments_val.json", {"label": 1}, {"label": "wash", "end_time": 2.0})
    message = refusal("ego4d-mq", path)
    assert "video 0, clip 0, annotation 0, label 0: 'label' is missing" in message
    assert "label 1: start_time is None; a finite number is needed" in message


def test_ones_own_json_is_not_mended(tmp_path):
    database = {"a": video(10.0, (8.0, 11.0, "jump"), (3.0, 3.0, "jump"))}
    message = refusal("json", document(tmp_path / "own.json", {"database": database}))
    assert "2 problems" in message
    path = document(tmp_path / "own.json", {"database": {"a": video(10.0, (1.0, 2.0, "jump"), fps=-3)}})
    assert "video 'a': fps is -3; a number above 0 is needed" in refusal("json", path)


def test_labels_of_ones_own_json_must_name_every_class_once(tmp_path):
    database = {"a": video(10.0, (8.0, 9.0, "jump"))}
    path = document(tmp_path / "own.json", {"labels": ["run", "jump"], "database": database})
    dataset = read("json", path)
    assert dataset.ground_truth.labels == ("run", "jump")
    assert instances(dataset) == [("a", 8.0, 9.0, "jump")]
    document(path, {"labels": ["run", "run"], "database": database})
    message = refusal("json", path)
    assert "names 'run' more than once" in message
    assert "label 'jump' is none of the 2" in message


def test_unknown_names_paths_and_subsets_are_refused_with_what_there_is(tmp_path):
    message = refusal("kinetics", tmp_path)
    assert all(name in message for name in READERS)
    assert "is not there" in refusal("charades", tmp_path / "nowhere")
    message = refusal("charades", public_files.charades(tmp_path), "validation")
    assert "no video of subset 'validation'; subsets in it: test, training" in message


def test_files_that_are_no_text_or_no_json_are_refused(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    assert "is not UTF-8 text" in refusal("thumos14", tmp_path / "a.json")
    assert "is not JSON" in refusal("ego4d-mq", text(tmp_path / "b.json", "{"))


KEYS = ["database", "taxonomy", "labels", "nodeName", "videos", "clips", "clip_uid", "annotations", "segment", "label"]
MORE_KEYS = ["duration", "fps", "subset", "actions", "clip_end_sec", "start_time", "end_time", "a"]
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["a", "1", "nan"])
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS + MORE_KEYS), inner, max_size=4),
    max_leaves=12,
)
ENTRY = st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS + MORE_KEYS, JSON))
ITEMS = st.lists(ENTRY, max_size=2)
DOCUMENTS = JSON | st.fixed_dictionaries(
    {},
    optional={
        "database": st.dictionaries(st.sampled_from("ab"), ENTRY | st.fixed_dictionaries({"annotations": ITEMS})),
        "taxonomy": ITEMS,
        "labels": JSON,
        "videos": st.lists(st.fixed_dictionaries({"clips": ITEMS}), max_size=2),
        "a": ENTRY,
    },
)


@pytest.mark.parametrize("name", ["json", "thumos14", "activitynet-1.3", "multithumos", "charades", "ego4d-mq"])
@given(content=DOCUMENTS)
@example(content={"database": {"a": {"annotations": [{"segment": [1, 10**400], "label": "x"}], "subset": {}}}})
@example(content={"database": {"a": {"annotations": []}}, "taxonomy": [{"nodeName": []}]})
@example(content={"database": {"a": {"annotations": []}}, "taxonomy": [{"nodeName": "x", "parentName": {}}]})
@example(content={"videos": [{"split": {}, "clips": [{"clip_uid": "a", "clip_end_sec": 1}]}]})
def test_any_json_is_read_or_refused(name, content):
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(InvalidOptions):
        dataset = read(name, document(Path(folder) / "any.json", content))
        assert check(dataset) == ()


WORDS = ["id", "actions", "video", "c092 1 2", "1", "nan", "-3", ",", ",", "\n", "\n", '"', ";", " ", "\x00", "é"]
TEXTS = st.lists(st.sampled_from(WORDS) | st.text(max_size=3), max_size=40).map("".join)
HEADS = {
    "charades": ("Charades_v1_train.csv", "id,actions,length\n"),
    "epic-kitchens-100": ("EPIC_100_train.csv", ",".join(epic_kitchens.COLUMNS) + "\n"),
    "thumos14": ("Diving_val.txt", ""),
    "multithumos": ("Diving.txt", ""),
}


@pytest.mark.parametrize("name", HEADS)
@given(content=TEXTS)
@example(content="x" * 200_000)
def test_any_text_is_read_or_refused(name, content):
    file, head = HEADS[name]
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(InvalidOptions):
        (Path(folder) / file).write_text(head + content, encoding="utf-8", newline="")
        assert check(read(name, Path(folder))) == ()


def test_a_table_whose_first_line_is_no_csv_is_refused(tmp_path):
    path = text(tmp_path / "Charades_v1_train.csv", "x" * 200_000)
    assert "the first line is not CSV" in refusal("charades", path)


def test_json_that_python_itself_gives_up_on_is_refused(tmp_path):
    for content in ("[" * 100_000, "9" * 5000):
        assert "is not JSON" in refusal("thumos14", text(tmp_path / "a.json", content))


@pytest.mark.parametrize("name", ["charades", "epic-kitchens-100", "ego4d-mq", "multithumos"])
def test_json_that_others_made_in_the_form_of_activitynet_keeps_the_protocol_and_is_mended(tmp_path, name):
    database = {"a": video(10.0, (8.0, 10.5, "wash"), fps=30)}
    dataset = read(name, document(tmp_path / "others.json", {"database": database}), "train")
    assert instances(dataset) == [("a", 8.0, 10.0, "wash")]
    assert dataset.fps == {"a": 30.0}
    assert dataset.protocol == {"epic-kitchens-100": "epic", "ego4d-mq": "ego4d"}.get(name, name)


def test_torch_is_not_imported():
    code = "import sys, training.datasets.catalog, training.datasets.validation, training.datasets.writing;"
    subprocess.run([sys.executable, "-c", f"{code} assert 'torch' not in sys.modules"], check=True)


@pytest.mark.needs_assets
@pytest.mark.parametrize(
    ("name", "file", "subset", "videos", "instances_", "labels"),
    [
        ("thumos14", "thumos14_test_gt.json", "test", 210, 3311, 20),
        ("thumos14", "thumos14_test_gt.json", None, 410, 6318, 20),
        ("activitynet-bmn", ".", None, 19228, 22152 - 12, 200),
        ("activitynet-bmn", "anet_anno_action.json", "validation", 4728, 7290, 200),
    ],
)
def test_published_files_are_read_whole(assets, name, file, subset, videos, instances_, labels):
    dataset = read(name, assets / "annotations" / file, subset)
    truth = dataset.ground_truth
    assert (len(truth.videos), len(truth.segments_s), len(truth.labels)) == (videos, instances_, labels)
    assert check(dataset) == ()


@pytest.mark.needs_assets
def test_what_activitynet_is_known_to_have_wrong_is_told(assets):
    dataset = read("activitynet-bmn", assets / "annotations")
    assert told(dataset.notes, "12 segments have no length; left out")
    assert told(dataset.notes, "13 segments reach beyond their video; cut")
    assert len(read("activitynet-bmn", assets / "annotations", as_published=True).ground_truth.segments_s) == 22152
