"""Every data set is read from a tiny tree in its format, and says what is missing or wrong in it."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from streamfer.errors import ConfigError, RecordError, UserError
from streamfer_train.captions.files import read_entries
from streamfer_train.datasets import __main__ as command
from streamfer_train.datasets.catalogue import DATASETS, dataset
from streamfer_train.datasets.coded_video import BP4D_UNITS, DISFA_UNITS, GFT_UNITS, cut_disfa
from streamfer_train.datasets.stills import parse_units


def put(root: Path, name: str, content: str | bytes = b"") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def bp4d(root: Path, subjects: int = 14, frames: int = 25) -> Path:
    """Unit 12 is present from frame 13 on; unit 24 is never coded."""
    header = ",".join(["0", *map(str, range(1, 28))])
    for subject in range(1, subjects + 1):
        rows = []
        for frame in range(1, frames + 1):
            codes = dict.fromkeys(range(1, 28), 9) | dict.fromkeys(BP4D_UNITS, 0) | {12: int(frame >= 13), 24: 9}
            rows.append(",".join(map(str, [frame, *codes.values()])))
            put(root, f"Sequences/F{subject:03d}/T1/{frame:04d}.jpg")
        put(root, f"AUCoding/AU_OCC/F{subject:03d}_T1.csv", "\n".join([header, *rows]))
    return root


def test_bp4d(tmp_path: Path) -> None:
    samples = DATASETS["bp4d"].everything(bp4d(tmp_path, subjects=2))
    assert len(samples) == 50
    first, last = samples[0], samples[24]
    assert (first.image.as_posix(), first.subject, first.sequence, first.frame) == (
        "Sequences/F001/T1/0001.jpg", "F001", "T1", 1)  # fmt: skip
    assert (first.labels.action_units, last.labels.action_units) == (frozenset(), frozenset({12}))
    assert first.labels.coded == frozenset(BP4D_UNITS) - {24}


def test_sampling_and_people_of_bp4d(tmp_path: Path) -> None:
    bp4d(tmp_path)
    known = dataset("bp4d")
    train, test = known.load(tmp_path), known.load(tmp_path, "test")
    assert [sample.frame for sample in train] == [1, 11, 13, 21]  # every tenth, and the change
    assert len({sample.subject for sample in test}) == 13
    assert {sample.subject for sample in train}.isdisjoint(sample.subject for sample in test)
    assert len(test) == 13 * 25
    put(tmp_path, "test_subjects.txt", "F001\nF002\n")
    assert {sample.subject for sample in known.load(tmp_path, "test")} == {"F001", "F002"}
    put(tmp_path, "test_subjects.txt", "M999\n")
    with pytest.raises(ConfigError, match="M999 is nobody in bp4d"):
        known.load(tmp_path)


def test_disfa(tmp_path: Path) -> None:
    for unit in DISFA_UNITS:
        put(tmp_path, f"ActionUnit_Labels/SN001/SN001_au{unit}.txt", f"1,0\n2,{1 if unit == 4 else 3 * (unit == 12)}\n")
    put(tmp_path, "frames/SN001/1.png")
    put(tmp_path, "frames/SN001/2.png")
    neutral, smile = DATASETS["disfa"].everything(tmp_path)
    assert neutral.labels.action_units == frozenset()
    assert smile.labels.action_units == frozenset({12})  # intensity 1 of unit 4 is below the threshold
    assert smile.labels.intensities == {12: 3}
    put(tmp_path, "ActionUnit_Labels/SN001/SN001_au4.txt", "1,0\n2,7\n")
    with pytest.raises(RecordError, match=r"SN001_au4\.txt, line 2: field intensity is 7, not 0-5"):
        DATASETS["disfa"].everything(tmp_path)
    (tmp_path / "ActionUnit_Labels/SN001/SN001_au4.txt").unlink()
    with pytest.raises(ConfigError, match=r"SN001_au4\.txt: cannot be read .* expected is ActionUnit_Labels"):
        DATASETS["disfa"].everything(tmp_path)


def test_gft(tmp_path: Path) -> None:
    header = ",".join(["Frame", *(f"AU{unit}" for unit in GFT_UNITS)])
    codes = ["1"] + ["0"] * (len(GFT_UNITS) - 2) + ["-999"]
    put(tmp_path, "labels/001A.csv", f"{header}\n7,{','.join(codes)}\n8,{','.join(codes)}\n")
    put(tmp_path, "images/001A/00007.jpg")
    (sample,) = DATASETS["gft"].everything(tmp_path)  # frame 8 has no picture
    assert (sample.frame, sample.subject, sample.labels.action_units) == (7, "001A", frozenset({1}))
    assert sample.labels.coded == frozenset(GFT_UNITS) - {24}
    put(tmp_path, "labels/001A.csv", f"{header.replace('AU6', 'AU66')}\n")
    with pytest.raises(RecordError, match=r"001A\.csv, line 1: column AU6 is missing"):
        DATASETS["gft"].everything(tmp_path)


@pytest.mark.parametrize(
    ("codes", "units"),
    [("17+B22+T24", [17, 22, 24]), ("L1+R2+25", [1, 2, 25]), ("null", []), ("0", []), ("12C+6", [12, 6])],
)
def test_letters_of_units_are_dropped(codes: str, units: list[int]) -> None:
    assert parse_units(codes, "here") == units


def test_raf_au(tmp_path: Path) -> None:
    put(tmp_path, "RAFAU_label.txt", "0001.jpg 17+B22+T24+34\n0002.jpg null\n0003.jpg 12\n")
    put(tmp_path, "aligned/0001_aligned.jpg")
    put(tmp_path, "aligned/0002_aligned.jpg")
    chin, rest = DATASETS["raf-au"].everything(tmp_path)
    assert chin.labels.action_units == frozenset({17, 22, 24})  # 34 is none of the 27
    assert rest.labels.action_units == frozenset()
    put(tmp_path, "RAFAU_label.txt", "0001.jpg 17\n0002.jpg 17+x\n")
    with pytest.raises(RecordError, match=r"RAFAU_label\.txt, line 2: field action units: 'x' is no unit"):
        DATASETS["raf-au"].everything(tmp_path)
    put(tmp_path, "RAFAU_label.txt", "0001.jpg\n")
    with pytest.raises(RecordError, match="line 1: field action units is missing"):
        DATASETS["raf-au"].everything(tmp_path)


def test_random_splits_are_disjoint_and_complete(tmp_path: Path) -> None:
    put(tmp_path, "RAFAU_label.txt", "".join(f"{number:04d}.jpg 12\n" for number in range(50)))
    for number in range(50):
        put(tmp_path, f"aligned/{number:04d}_aligned.jpg")
    sides = [{sample.image for sample in dataset("raf-au").load(tmp_path, split)} for split in ("train", "test")]
    assert sides[0].isdisjoint(sides[1])
    assert [len(side) for side in sides] == [41, 9]
    again = {sample.image for sample in dataset("raf-au").load(tmp_path, "test", seed=1)}
    assert again != sides[1]


def test_emotionet(tmp_path: Path) -> None:
    put(tmp_path, "labels.csv", "URL,AU 1,AU 12,AU 60\nhttp://x.org/p/a.jpg?size=1,1,0,1\nhttp://x.org/b.jpg,999,1,0\n"
                                "http://x.org/gone.jpg,1,1,1\n")  # fmt: skip
    put(tmp_path, "images/a.jpg")
    put(tmp_path, "images/b.jpg")
    first, second = DATASETS["emotionet"].everything(tmp_path)
    assert (first.labels.action_units, first.labels.coded) == (frozenset({1}), frozenset({1, 12}))
    assert (second.labels.action_units, second.labels.coded) == (frozenset({12}), frozenset({12}))
    put(tmp_path, "labels.csv", "URL,AU 1\nhttp://x.org/a.jpg,2\n")
    with pytest.raises(RecordError, match=r"labels\.csv, line 2: field AU 1 is 2, not 0, 1 or 999"):
        DATASETS["emotionet"].everything(tmp_path)


def _npy(value: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array(value))
    return buffer.getvalue()


def test_affectnet(tmp_path: Path) -> None:
    for side, number, label in (("train_set", 3, "1"), ("train_set", 4, "9"), ("val_set", 0, 7)):
        put(tmp_path, f"{side}/images/{number}.jpg")
        put(tmp_path, f"{side}/annotations/{number}_exp.npy", _npy(label))
    samples = {sample.image.as_posix(): sample for sample in DATASETS["affectnet"].everything(tmp_path)}
    assert samples.keys() == {"train_set/images/3.jpg", "val_set/images/0.jpg"}
    assert samples["train_set/images/3.jpg"].labels.emotions == ("happiness",)
    assert samples["train_set/images/3.jpg"].labels.action_units is None
    assert [s.labels.emotions for s in dataset("affectnet").load(tmp_path, "test")] == [("contempt",)]
    put(tmp_path, "val_set/annotations/0_exp.npy", b"junk")
    with pytest.raises(RecordError, match=r"0_exp\.npy: holds no class number"):
        DATASETS["affectnet"].everything(tmp_path)


def test_raf_db_compound(tmp_path: Path) -> None:
    put(tmp_path, "EmoLabel/list_patition_label.txt", "train_0001.jpg 1\ntest_0001.jpg 8\n")
    put(tmp_path, "Image/aligned/train_0001_aligned.jpg")
    put(tmp_path, "Image/aligned/test_0001_aligned.jpg")
    (train,) = dataset("raf-db-compound").load(tmp_path)
    (test,) = dataset("raf-db-compound").load(tmp_path, "test")
    assert (train.labels.emotions, test.labels.emotions) == (("happiness", "surprise"), ("fear", "surprise"))
    put(tmp_path, "EmoLabel/list_patition_label.txt", "train_0001.jpg 12\n")
    with pytest.raises(RecordError, match="line 1: field label is '12', not 1-11"):
        DATASETS["raf-db-compound"].everything(tmp_path)


def test_faceme_keeps_what_two_of_three_saw(tmp_path: Path) -> None:
    votes = [("a.jpg", 1, "happy"), ("a.jpg", 2, "Happy"), ("a.jpg", 3, "sleepy"), ("b.jpg", 1, "sad"),
             ("b.jpg", 1, "sad"), ("b.jpg", 2, "angry")]  # fmt: skip
    lines = ["image,annotator,label", *(",".join(map(str, vote)) for vote in votes)]
    put(tmp_path, "votes.csv", "\n".join(lines))
    put(tmp_path, "images/a.jpg")
    put(tmp_path, "images/b.jpg")
    (sample,) = DATASETS["faceme"].everything(tmp_path)  # nobody agrees on b; one annotator counts once
    assert (sample.image.name, sample.labels.emotions) == ("a.jpg", ("happiness",))
    put(tmp_path, "votes.csv", "image,annotator,label\na.jpg,1,\n")
    with pytest.raises(RecordError, match=r"votes\.csv, line 2: field label is missing"):
        DATASETS["faceme"].everything(tmp_path)


@pytest.mark.parametrize("name", DATASETS)
def test_an_empty_folder_is_told_what_it_lacks(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="expected is"):
        dataset(name).load(tmp_path)
    with pytest.raises(ConfigError, match=f"no such folder; {name} expects"):
        dataset(name).load(tmp_path / "absent")


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="choose one of bp4d, disfa"):
        dataset("ck+")


def test_the_command_writes_a_label_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = bp4d(tmp_path / "bp4d")
    out = tmp_path / "labels.jsonl"
    assert command.main(["bp4d", str(root), "--out", str(out)]) == 0
    assert "4 pictures of 1 people" in capsys.readouterr().out
    labels = [entry.labels() for entry in read_entries(out)]
    assert [sorted(label.action_units or ()) for label in labels] == [[], [], [12], [12]]
    assert command.main(["bp4d", str(tmp_path / "none"), "--out", str(out)]) == 2
    assert capsys.readouterr().err.startswith("streamfer: ")


def test_disfas_films_are_cut_into_the_frames_that_the_reader_wants(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for unit in DISFA_UNITS:
        put(
            tmp_path,
            f"ActionUnit_Labels/SN001/SN001_au{unit}.txt",
            "\n".join(f"{n},{2 * (n % 2)}" for n in range(1, 7)),
        )
    words = ["disfa", str(tmp_path), "--out", str(tmp_path / "d.json"), "--split", "train"]
    assert command.main([*words, "--cut-films"]) == 2
    assert "Videos_LeftCamera" in capsys.readouterr().err
    (tmp_path / "Videos_LeftCamera").mkdir()
    film = tmp_path / "Videos_LeftCamera" / "LeftVideoSN001_comp.avi"
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter.fourcc(*"MJPG"), 20, (32, 24))
    for number in range(6):
        writer.write(np.full((24, 32, 3), 40 * number, np.uint8))
    writer.release()
    assert cut_disfa(tmp_path) == 1
    names = sorted(path.name for path in (tmp_path / "frames" / "SN001").iterdir())
    assert names == [f"{number:05d}.jpg" for number in range(1, 7)]
    shades = [int(np.asarray(Image.open(tmp_path / "frames" / "SN001" / name)).mean()) for name in names]
    assert all(abs(shade - 40 * number) < 8 for number, shade in enumerate(shades))
    assert len(DATASETS["disfa"].everything(tmp_path)) == 6
    assert command.main(["bp4d", *words[1:], "--cut-films"]) == 2
    assert "are handed out as pictures" in capsys.readouterr().err
