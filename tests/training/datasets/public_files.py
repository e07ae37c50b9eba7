"""Folders in; small files as the public data sets publish them out, with made-up content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def text(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def document(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def video(duration_s: float | None, *instances: tuple[float, float, str], **more: Any) -> dict[str, Any]:
    stated = {} if duration_s is None else {"duration": duration_s}
    items = [{"segment": [start_s, end_s], "label": label} for start_s, end_s, label in instances]
    return {"subset": "training", **stated, **more, "annotations": items}


def thumos14(folder: Path) -> Path:
    text(folder / "detclasslist.txt", "26 Diving", "22 CliffDiving", "9 Billiards")
    text(folder / "Diving_val.txt", "video_validation_0000001  1.0 2.5", "video_validation_0000002  4 5")
    text(folder / "CliffDiving_val.txt", "video_validation_0000001  1.0 2.5")
    text(folder / "Ambiguous_test.txt", "video_test_0000270  3.0 4.0")
    text(folder / "Billiards_test.txt", "video_test_0000270  1.0 2.0", "")
    return folder


def activitynet(path: Path, database: dict[str, Any]) -> Path:
    nodes = [("Root", None), ("Sports", "Root"), ("Diving", "Sports"), ("Archery", "Sports")]
    taxonomy = [{"nodeName": name, "parentName": parent} for name, parent in nodes]
    return document(path, {"database": database, "taxonomy": taxonomy, "version": "VERSION 1.3"})


def charades(folder: Path) -> Path:
    text(folder / "Charades_v1_classes.txt", "c092 Washing a window", "c147 Holding a broom")
    head = "id,subject,descriptions,actions,length"
    text(
        folder / "Charades_v1_train.csv",
        head,
        'AAAA1,X1,"A person, who washes",c092 11.90 21.20;c147 0.00 12.60,30.5',
        "BBBB2,X2,nothing,,12.0",
        "CCCC3,X3,odd,c092 5.00 14.00;c092 9.0 8.0;c147 12.5 13.0,12.0",
    )
    text(folder / "Charades_v1_test.csv", head, "DDDD4,X4,test,c147 1 2,10.0")
    return folder


def epic_kitchens(folder: Path) -> Path:
    head = "narration_id,video_id,start_timestamp,stop_timestamp,verb,verb_class,noun,noun_class,all_noun_classes"
    text(
        folder / "EPIC_100_train.csv",
        head,
        'P01_01_0,P01_01,00:00:00.14,00:00:03.37,opens,3,door,8,"[8, 1]"',
        "P01_01_1,P01_01,01:01:02.50,01:01:04.00,takes,0,plate,2,[2]",
    )
    text(folder / "EPIC_100_validation.csv", head, "P02_01_0,P02_01,00:00:01.00,00:00:02.00,take,0,cup,8,[8]")
    text(folder / "EPIC_100_verb_classes.csv", "id,key,instances,category", '0,take,"[]",a', '3,open,"[]",b')
    text(folder / "EPIC_100_noun_classes.csv", "id,key,instances", "2,plate,[]", "8,cupboard,[]")
    text(
        folder / "EPIC_100_video_info.csv",
        "video_id,duration,fps,resolution",
        "P01_01,4000,59.94,1920x1080",
        "P02_01,9,50,1920x1080",
    )
    return folder


def ego4d(path: Path, *labels: dict[str, Any]) -> Path:
    clip = {"clip_uid": "clip-1", "clip_start_sec": 480.0, "clip_end_sec": 960.0, "annotations": [{"labels": labels}]}
    empty = {"clip_uid": "clip-2", "video_start_sec": 0.0, "video_end_sec": 480.0, "annotations": []}
    return document(path, {"videos": [{"video_uid": "v", "clips": [clip, empty]}]})


def moment(start_s: float, end_s: float, label: str, *, primary: bool = True) -> dict[str, Any]:
    return {"start_time": start_s, "end_time": end_s, "label": label, "primary": primary}
