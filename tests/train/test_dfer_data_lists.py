"""Annotation lists: labels become names, every fault is found before training, folds share nothing."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from clip_lists import checked, config, frame_folder, written
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from streamfer.errors import ConfigError
from streamfer.models.vocabulary import canonical
from streamfer_train.dfer_clip.data_config import (
    DFEW_LABELS,
    MAFW_OWN_ORDER,
    SCHEMES,
    VOCABULARIES,
    HeldOutConfig,
    class_of,
)
from streamfer_train.dfer_clip.entries import Clip, clip_path, data_digest, read_list
from streamfer_train.dfer_clip.folds import Fold, hold_out, shared_clips

SEVEN = ("happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear")
ELEVEN = (*SEVEN, "contempt", "anxiety", "helplessness", "disappointment")


# Classes ------------------------------------------------------------------------------------------------------


def test_the_authors_order_is_the_checkpoints_order() -> None:
    assert VOCABULARIES["dfew"] == VOCABULARIES["ferv39k"] == SEVEN
    assert VOCABULARIES["mafw"] == ELEVEN
    assert {number: class_of(str(number), "authors", ELEVEN) for number in range(11)} == dict(enumerate(ELEVEN))


def test_dfew_counts_the_same_order_from_one() -> None:
    assert dict(zip(range(1, 8), SEVEN, strict=True)) == DFEW_LABELS
    assert class_of("1", "dfew", SEVEN) == "happiness"
    assert class_of("7", "dfew", SEVEN) == "fear"
    with pytest.raises(ConfigError, match="label 0 is out of range; 'dfew' labels go from 1 to 7"):
        class_of("0", "dfew", SEVEN)


def test_mafw_own_numbers_are_not_the_authors() -> None:
    # Fold 1's test counts in both numberings (facts 1.5): the same clips, so the same count of each name.
    authors = dict(zip(ELEVEN, (249, 294, 228, 278, 215, 128, 125, 48, 184, 53, 37), strict=True))
    own = [authors[name] for name in MAFW_OWN_ORDER]
    assert own == [278, 128, 125, 249, 228, 294, 215, 48, 184, 53, 37]
    assert class_of("0", "mafw", ELEVEN) == "anger"
    assert class_of("0", "authors", ELEVEN) == "happiness"


def test_folders_of_ferv39k_are_the_seven_classes() -> None:
    folders = ("Angry", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise")
    assert sorted(map(canonical, folders)) == sorted(SEVEN)


@pytest.mark.parametrize(
    ("label", "scheme", "message"),
    [
        ("7", "authors", "label 7 is out of range; 'authors' labels go from 0 to 6"),
        ("-1", "authors", "label '-1' is no number"),
        ("happy", "authors", "data.labels: names"),
        ("hapiness", "names", "did you mean 'happiness'"),
        ("3", "names", "for numbers set data.labels"),
        ("", "names", "is none of the classes"),
    ],
)
def test_a_wrong_label_says_what_is_right(label: str, scheme: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        class_of(label, scheme, SEVEN)


def test_own_spelling_of_classes_is_kept() -> None:
    assert class_of("happiness", "names", ("Happy", "Bored")) == "Happy"
    assert class_of("bored", "names", ("Happy", "Bored")) == "Bored"
    assert class_of("0", "authors", ("Sad", "Happy")) == "Happy"


@given(st.text(max_size=12) | st.integers(-2, 12).map(str), st.sampled_from(sorted(SCHEMES)))
def test_any_label_is_a_class_or_a_config_error(label: str, scheme: Any) -> None:
    meant = SCHEMES[scheme].get(int(label)) if label.isdecimal() else None
    if scheme != "names" and meant in SEVEN:
        assert class_of(label, scheme, SEVEN) == meant
    elif canonical(label) not in SEVEN:
        with pytest.raises(ConfigError, match=r"^[^\n]*$"):
            class_of(label, scheme, SEVEN)


# Configuration ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"folds": [1, 2]}, "need {fold} in both"),
        ({"folds": [1, 1], "train": "a{fold}", "test": "b{fold}"}, "each fold is named once"),
        ({"dataset": "mafw", "labels": "dfew"}, "no number for contempt"),
        ({"classes": ["joy", "gloom"]}, "no number for gloom"),
        ({"held_out": {"fraction": 0.1, "list": "x"}}, "not both"),
        ({"oversample": 2}, "less than or equal to 1"),
        ({"frame": 8}, "Extra inputs"),
        ({"classes": ["a", "A"], "labels": "names"}, "each named once"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**settings)


def test_defaults_follow_the_dataset() -> None:
    assert [config(dataset=name).augmentation_name for name in ("dfew", "ferv39k", "mafw")] == [
        "dfew",
        "ferv39k",
        "mafw",
    ]
    assert config(dataset="csv").label_scheme == "names"
    assert str(config(train="a_{fold}", test="b_{fold}", folds=(2, 3)).train_list(3)) == "a_3"


@pytest.mark.parametrize(
    ("dataset", "listed", "here"),
    [
        ("dfew", "/x/DFEW/DFEW_Frame_Face/00012", "/here/00012"),
        ("dfew", "12", "/here/00012"),
        ("ferv39k", "/x/2_ClipsforFaceCrop/Action/Happy/0015", "/here/Action/Happy/0015"),
        ("mafw", "/x/MAFW/data/faces/00025", "/here/00025"),
        ("ferv39k", r"D:\x\2_ClipsforFaceCrop\Action\Happy\0015", "/here/Action/Happy/0015"),
        ("mafw", "/00025", "/here/00025"),
        ("csv", "sub/a.mp4", "/here/sub/a.mp4"),
        ("csv", "/elsewhere/a.mp4", "/elsewhere/a.mp4"),
    ],
)
def test_the_lists_prefix_gives_way_to_root(dataset: str, listed: str, here: str) -> None:
    assert clip_path(listed, config(dataset=dataset, root="/here")) == here


# Lists --------------------------------------------------------------------------------------------------------


def test_the_authors_list_is_read_as_it_is(tmp_path: Path) -> None:
    path = written(tmp_path, "l.txt", "/m/DFEW_Frame_Face/00001 77 0\n/m/DFEW_Frame_Face/00042 5 6\n\n")
    clips, problems = read_list(path, config(root="/r"))
    assert problems == []
    assert clips == [
        Clip("/r/00001", 77, "happiness", f"{path}:1"),
        Clip("/r/00042", 5, "fear", f"{path}:2"),
    ]


def test_every_bad_line_is_named_and_the_good_ones_are_kept(tmp_path: Path) -> None:
    lines = ["/a/00001 16 0", "/a/00002 16", "/a/00003 x 1", "/a/00004 0 1", "/a/00005 16 9", "00006", "/a/00007 9 3"]
    path = written(tmp_path, "l.txt", "\n".join(lines))
    clips, problems = read_list(path, config())
    assert [clip.path for clip in clips] == ["/a/00001", "/a/00007"]
    found = {(problem.where.rpartition(":")[2], problem.kind) for problem in problems}
    assert found == {
        ("2", "too few fields"),
        ("3", "not a number"),
        ("4", "empty clip"),
        ("5", "unknown label"),
        ("6", "too few fields"),
    }


def test_names_may_come_without_a_count(tmp_path: Path) -> None:
    path = written(tmp_path, "l.txt", "Action/Happy/0267 Happy\nAction/Sad/0001 12 Sad\n")
    clips, problems = read_list(path, config(dataset="ferv39k", labels="names", root="/r"))
    assert problems == []
    assert [(clip.path, clip.frames, clip.label) for clip in clips] == [
        ("/r/Action/Happy/0267", None, "happiness"),
        ("/r/Action/Sad/0001", 12, "sadness"),
    ]


def test_lists_are_parted_by_what_parts_them(tmp_path: Path) -> None:
    for name, text in (
        ("l.txt", '/m/a b/00007,5,1\r\n"/m/00008"; 6; 2\n'),  # commas, semicolons, quotes, a path with a space
        ("l.csv", "/m/00007 5 1\n/m/00008 6 2\n"),  # FERV39k's own end in .csv and have no header
        ("h.csv", "\ufeffvideo_name;frames;label\r\n00007;5;1\r\n8;6;2\r\n"),
    ):
        clips, problems = read_list(written(tmp_path, name, text), config(root="/r", labels="authors"))
        assert problems == []
        assert [(one.path, one.frames, one.label) for one in clips] == [
            ("/r/00007", 5, "sadness"),
            ("/r/00008", 6, "neutral"),
        ]


def test_a_csv_has_targets_by_column_name(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "l.csv",
        'label,video,AU12,AU1,start,end,group\nHappy,"a, b.mp4",0.9,,1.5,3,anna\nsad,c.mp4,,0.25,,,\n',
    )
    clips, problems = read_list(path, config(dataset="csv", root="/r", actions=("AU1", "AU12")))
    assert problems == []
    first, second = clips
    assert (first.path, first.label) == ("/r/a, b.mp4", "happiness")
    assert (first.start, first.end, first.group) == (1.5, 3.0, "anna")
    assert math.isnan(first.actions[0])
    assert first.actions[1] == 0.9
    assert (second.start, second.group, second.actions[0]) == (None, None, 0.25)


def test_votes_are_shares_by_class(tmp_path: Path) -> None:
    asked = config(dataset="csv", root="/r", votes=True, classes=("anger", "fear"))
    path = written(tmp_path, "l.csv", "video,label,Fear,anger\na.mp4,fear,3,1\nb.mp4,fear,,2\nc.mp4,fear,0,\n")
    clips, problems = read_list(path, asked)
    assert [clip.votes for clip in clips] == [(0.25, 0.75), (1.0, 0.0)]
    assert [(problem.kind, problem.where) for problem in problems] == [("no votes", f"{path}:4")]
    clips, problems = read_list(written(tmp_path, "m.csv", "video,label\na.mp4,fear\n"), asked)
    assert "no column anger, fear" in problems[0].what


@pytest.mark.parametrize(
    ("text", "line", "kind"),
    [
        ("video,label\na.mp4\n", 2, "too few fields"),
        ("video,label\na.mp4,happy,more\n", 2, "too many fields"),
        ("video,emotion\na.mp4,happy\n", 1, "too few fields"),
        ("", 1, "too few fields"),
        ("video,label\n,happy\n", 2, "too few fields"),
        ("video,label,start\na.mp4,happy,-2\n", 2, "not a number"),
        ("video,label,end\na.mp4,happy,nan\n", 2, "not a number"),
        ("video,label,start,end\na.mp4,happy,2,2\n", 2, "empty clip"),
        ("video,label,frames\na.mp4,happy,0\n", 2, "empty clip"),
        ("video,label\na.mp4,bored\n", 2, "unknown label"),
    ],
)
def test_a_bad_csv_names_its_line(tmp_path: Path, text: str, line: int, kind: str) -> None:
    path = written(tmp_path, "l.csv", text)
    clips, problems = read_list(path, config(dataset="csv"))
    assert clips == []
    assert [(problem.where, problem.kind, problem.severity) for problem in problems] == [
        (f"{path}:{line}", kind, "error")
    ]


def test_a_missing_or_binary_list_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    for name in ("none.txt", "b.txt"):
        clips, problems = read_list(tmp_path / name, config())
        assert clips == []
        assert [problem.kind for problem in problems] == ["missing list"]


@given(st.text(max_size=200), st.sampled_from([".txt", ".csv"]), st.sampled_from(["authors", "names"]))
def test_any_text_gives_usable_clips_or_problems(tmp_path_factory: Any, text: str, suffix: str, labels: Any) -> None:
    path = tmp_path_factory.mktemp("lists") / f"l{suffix}"
    path.write_text(text, encoding="utf-8")
    clips, problems = read_list(path, config(labels=labels))
    assert clips or problems
    for clip in clips:
        assert clip.label in SEVEN
        assert clip.frames is None or clip.frames >= 1
    for problem in problems:
        assert problem.where.startswith(str(path))


names = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=8)


@given(st.lists(st.tuples(names, st.integers(1, 999), st.integers(0, 6)), min_size=1, max_size=8))
def test_written_entries_are_read_back(tmp_path_factory: Any, rows: list[tuple[str, int, int]]) -> None:
    path = tmp_path_factory.mktemp("lists") / "l.txt"
    path.write_text("".join(f"/m/{name} {frames} {label}\n" for name, frames, label in rows), encoding="utf-8")
    clips, problems = read_list(path, config(dataset="ferv39k"))
    assert problems == []
    assert [(clip.path, clip.frames, clip.label) for clip in clips] == [(f"/m/{n}", f, SEVEN[k]) for n, f, k in rows]


def test_the_digest_knows_the_data_and_not_the_machine() -> None:
    def digest(root: str, label: str = "fear", frames: int = 3) -> str:
        return data_digest([Clip(f"{root}/S/E/0001", frames, label, "x:1")])

    assert digest("/a") == digest("/b/c")
    assert len({digest("/a"), digest("/a", label="anger"), digest("/a", frames=4)}) == 3


# Checks -------------------------------------------------------------------------------------------------------


# Folds --------------------------------------------------------------------------------------------------------


def clips_of(*labels: str, group: str | None = None) -> list[Clip]:
    return [Clip(f"/r/{label}{n}", 16, label, f"l:{n}", group=group) for n, label in enumerate(labels)]


@given(st.integers(2, 60), st.sampled_from([0.1, 0.25, 0.5]), st.integers(0, 5))
def test_holding_out_splits_each_class_and_loses_nothing(number: int, fraction: float, seed: int) -> None:
    clips = clips_of(*(SEVEN[n % 3] for n in range(number)))
    train, held = hold_out(clips, HeldOutConfig(fraction=fraction, seed=seed))
    assert sorted(clip.path for clip in train + held) == sorted(clip.path for clip in clips)
    counts, held_counts = Counter(clip.label for clip in clips), Counter(clip.label for clip in held)
    assert all(held_counts[label] == round(fraction * count) for label, count in counts.items())


def test_holding_out_depends_on_seed_and_not_on_order() -> None:
    clips = clips_of(*(SEVEN[n % 3] for n in range(40)))
    _, held = hold_out(clips, HeldOutConfig(fraction=0.25))
    _, again = hold_out(clips[::-1], HeldOutConfig(fraction=0.25))
    _, other = hold_out(clips, HeldOutConfig(fraction=0.25, seed=2))
    assert {clip.path for clip in held} == {clip.path for clip in again} != {clip.path for clip in other}


@given(st.lists(st.integers(0, 7), min_size=12, max_size=60), st.integers(0, 4))
def test_groups_are_never_divided(groups: list[int], seed: int) -> None:
    clips = [Clip(f"/r/{n}", 16, "fear", f"l:{n}", group=f"g{group}") for n, group in enumerate(groups)]
    if len(set(groups)) < 2:
        return
    train, held = hold_out(clips, HeldOutConfig(fraction=0.3, by="group", seed=seed))
    assert held
    assert train
    assert not {clip.group for clip in train} & {clip.group for clip in held}


def test_groups_have_to_be_known() -> None:
    with pytest.raises(ConfigError, match=r"l:0 has no group"):
        hold_out(clips_of("fear", "anger"), HeldOutConfig(fraction=0.5, by="group"))
    with pytest.raises(ConfigError, match="two groups"):
        hold_out(clips_of("fear", "anger", group="a"), HeldOutConfig(fraction=0.5, by="group"))


def test_held_out_clips_may_be_listed(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        frame_folder(tmp_path / "clips" / f"{number:05d}", 2)
    written(tmp_path, "val_1.txt", "/x/00002 2 0")
    held_out = {"list": f"{tmp_path}/val_{{fold}}.txt"}
    report = checked(tmp_path, "/x/00001 2 0\n/x/00002 2 0", "/x/00003 2 0", held_out=held_out)
    (fold,) = report.folds
    assert [[Path(clip.path).name for clip in part] for part in (fold.train, fold.held_out, fold.test)] == [
        ["00001"],
        ["00002"],
        ["00003"],
    ]


def test_a_shared_group_is_a_warning_and_a_shared_clip_an_error() -> None:
    train = [Clip("/a", 9, "fear", "t:1", group="p"), Clip("/b", 9, "fear", "t:2")]
    test = [Clip("/c", 9, "fear", "s:1", group="p"), Clip("/b", 9, "fear", "s:2"), Clip("/d", 9, "fear", "s:3")]
    problems = shared_clips(Fold(4, SEVEN, tuple(train), (), tuple(test)))
    assert [(p.severity, p.kind, p.where) for p in problems] == [
        ("warning", "one group in train and test", "s:1"),
        ("error", "in train and test", "s:2"),
    ]
    assert "fold 4 tests on /b, which it learns from (t:2)" in problems[1].what
