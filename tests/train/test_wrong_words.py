"""What a stranger types wrongly to train and evaluate: one line that says the thing, what was wrong and the way out."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from command_line import streamfer
from tiny_clips import write_config as write_clips
from tiny_faces import write_config as write_faces

from streamfer_builtin.faces.__main__ import main as faces
from streamfer_builtin.mini.__main__ import main as mini
from streamfer_train.captions.__main__ import main as captions
from streamfer_train.datasets.__main__ import main as datasets

FILES = {
    "deep.yaml": "[" * 3000, "broken.yaml": "a: [1,\nb: }", "list.yaml": "- 1\n", "empty.yaml": "",
    "twice.yaml": "data:\n  train: a\n  train: b\n", "loop.yaml": "data: &a\n  train: *a\n",
    "deep.json": "[" * 100_000, "empty.json": "[]", "odd.json": '[{"image": "a.png", "action_units": [-1]}]',
    "clips.csv": "video,label\nclips/00000,happiness\n",
}  # fmt: skip


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recipes of toy size for the three systems, and files with something wrong in them."""
    folder = tmp_path_factory.mktemp("wrong")
    for name in ("clips", "blip", "vqa", "folder"):
        (folder / name).mkdir()
    write_clips(folder / "clips")
    write_faces(folder / "blip")
    write_faces(folder / "vqa", "exp-vqa")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


def below(folder: Path) -> set[tuple[Path, int]]:
    return {(path, path.lstat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


CLIP, BLIP, VQA = "train dfer-clip -c clips/recipe.yaml", "train exp-blip -c blip/config.yaml", "train exp-vqa"
OF_CLIPS, OF_BLIP = "evaluate dfer-clip", "evaluate exp-blip --captioner none --images blip --labels blip/labels.json"
OF_VQA = "evaluate exp-vqa --captioner none --images vqa"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("train", "recipe"),
        ("train dfer", "recipe 'dfer': unknown"),
        ("train --bogus", "recipe '--bogus': unknown"),
        ("train dfer-clip -c", "expected one argument; see: streamfer train dfer-clip --help"),
        ("train dfer-clip -c ''", "is empty; name a file or folder"),
        ("train dfer-clip -c absent.yaml", "no such configuration file"),
        ("train dfer-clip -c folder", "folder: cannot be read (Is a directory)"),
        ("train dfer-clip -c deep.yaml", "deep.yaml: not valid YAML"),
        ("train dfer-clip -c broken.yaml", "broken.yaml: not valid YAML at line 2"),
        ("train dfer-clip -c list.yaml", "list.yaml: holds a list"),
        ("train dfer-clip -c empty.yaml", "empty.yaml: data: is missing"),
        ("train dfer-clip -c twice.yaml", "'train' stands there twice at line 3"),
        ("train dfer-clip -c loop.yaml", "loop.yaml: data.dataset: is missing"),
        (f"{CLIP} --out ''", "--out: is empty"),
        (f"{CLIP} --resme", "'--resme' means nothing here; did you mean --resume?"),
        (f"{CLIP} --res", "'--res' means nothing here"),
        (f"{CLIP} extra", "'extra' means nothing here"),
        (f"{CLIP} --cut-faces", "--cut-faces: goes with --check"),
        (f"{CLIP} --fold x", "--fold: 'x' is no whole number from 0"),
        (f"{CLIP} --fold 7 --check", "--fold 7: data.folds are 1; choose one of them"),
        (f"{CLIP} --set run=5", "run: should be settings by their names (got 5)"),
        (f"{CLIP} --set run.otu=5", "run.otu: unknown setting; did you mean 'out'?"),
        (f"{CLIP} --set run.out=", "run.out: should be a path"),
        (f"{CLIP} --set run.device=cudda --check", "device 'cudda' is not a device"),
        (f"{CLIP} --set optimiser.momentum=.nan", "optimiser.momentum: Input should be a finite number"),
        (f"{CLIP} --set optimiser.heads=.inf", "optimiser.heads: Input should be a finite number"),
        (f"{CLIP} --set seeds=[99999999999] --check", "seeds.0: Input should be less than"),
        (f"{CLIP} --set data.train=folder --check", "folder: cannot be read (Is a directory)"),
        (BLIP, "no stage; add --stage"),
        (f"{BLIP} --stage au --variant cat", "--variant cat: is of --stage expression"),
        (f"{BLIP} --stage x", "--stage: invalid choice: 'x'"),
        (f"{BLIP} --stage au --set seed=99999999999", "seed: Input should be less than"),
        (f"{VQA} -c vqa/config.yaml --set training.lr=word --check", "training.lr: Input should be a valid number"),
        ("evaluate mini", "streamfer evaluate dfer-clip --weights mini"),
        ("evaluate --weights mini", "recipe '--weights': unknown"),
        (OF_CLIPS, "--weights is missing"),
        (f"{OF_CLIPS} --weights '' --list clips.csv", "--weights is missing"),
        (f"{OF_CLIPS} --weights nope --list clips.csv", "model 'nope' is unknown"),
        (f"{OF_CLIPS} --weights mini --list absent.csv", "absent.csv: no such annotation list"),
        (f"{OF_CLIPS} --weights mini --list folder", "folder: cannot be read (Is a directory)"),
        (f"{OF_CLIPS} --weights mini --list clips.csv --set x=1", "--set: goes with --config"),
        (f"{OF_CLIPS} --weights mini --list clips.csv --workers -1", "--workers: '-1' is no whole number from 0"),
        (f"{OF_CLIPS} --weights mini --list clips.csv --batch nan", "--batch: 'nan' is no whole number from 1"),
        (f"{OF_CLIPS} --weights mini --list clips.csv --out clips.csv", "clips.csv: is no folder"),
        (f"{OF_CLIPS} --weights mini -c clips/recipe.yaml --fold 5", "--fold 5: data.folds are 1"),
        (f"{OF_CLIPS} --folds --list clips.csv", "--folds: goes with --config"),
        (f"{OF_BLIP} --num-beams 999", "num_beams is 999; expected at least 1, at most 64"),
        (f"{OF_BLIP} --labels deep.json", "deep.json, line 1: is no JSON"),
        (f"{OF_BLIP} --labels odd.json", "-1 is no unit"),
        (f"{OF_BLIP} --encoder folder", "folder: no transformers model there"),
        (f"{OF_BLIP} --encoder-url http://x", "--encoder-url: goes with --encoder"),
        (f"{OF_BLIP} --probe-epochs 3", "--probe-epochs: goes with --probe-train"),
        (OF_VQA, "give either --labels or --questions"),
        (f"{OF_VQA} --questions empty.json", "empty.json: names no picture"),
        (f"{OF_VQA} --questions vqa/questions.json --units 1", "--units: goes with --labels"),
        (f"{OF_VQA} --labels vqa/labels.json --units x", "--units 'x': write numbers"),
        ("models show ''", "model '' is unknown"),
        ("models show folder", "folder"),
        ("models pull nope", "'nope'"),
        ("models import absent.pth --name x", "absent.pth"),
        ("models import folder --name x", "folder"),
        ("models import clips.csv --name x", "clips.csv: not a checkpoint"),
        ("models import clips.csv --name x --kind y", "--kind"),
        ("models lst", "'lst'"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_nothing_is_written(
    words: str, told: str, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk)
    before = below(desk)
    done = streamfer(*shlex.split(words))
    if words == "train":
        assert (done.code, done.err) == (0, "")
        assert told in done.out
        return
    assert done.code == 2
    [line] = done.err.splitlines()
    assert line.startswith("streamfer: ")
    assert told in line
    assert below(desk) == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("faces", "required"),
        ("faces trian", "invalid choice: 'trian'"),
        ("faces train -c absent.yaml", "absent.yaml: no such configuration file"),
        ("faces train --threads 0", "--threads: '0' is no whole number from 1 to 1024"),
        ("faces train --stes x=1", "'--stes' means nothing here"),
        ("faces train --set train.setps=1", "did you mean 'steps'?"),
        ("faces export -o x.onnx --threshold nan", "--threshold: 'nan' is no number from 0"),
        ("faces export -o ''", "is empty; name a file or folder"),
        ("mini", "required"),
        ("mini all -c list.yaml", "list.yaml: holds a list"),
        ("mini joint --set device=cudda", "device 'cudda' is not a device"),
        ("mini joint --set joint.lr=.inf", "joint.lr: Input should be a finite number"),
        ("captions rules --labels absent.json --out a.json", "absent.json: cannot be read"),
        ("captions rules --labels deep.json --out a.json", "deep.json, line 1: is no JSON"),
        ("captions rules --labels odd.json --out a.json --seed x", "--seed: 'x' is no whole number from 0"),
        ("captions questions --labels odd.json --out a.json --regions -1", "--regions: "),
        ("captions questions --labels odd.json --out a.json --url http://x", "--url: goes with --model"),
        ("captions fuse --labels odd.json --out a.json --model m --budget inf", "--budget: 'inf' is no number from 0"),
        ("captions lables", "invalid choice: 'lables'"),
        ("datasets nope folder --out a.json", "nope"),
        ("datasets disfa absent --out a.json", "absent"),
        ("datasets disfa folder --out a.json --split x", "--split: invalid choice: 'x'"),
    ],
)
def test_so_it_is_in_modules_that_are_run(
    words: str, told: str, desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(desk)
    for example in ("faces", "mini"):
        text = json.dumps(
            {"data": "folder", "work": "folder/w", **({"renders": "folder/r"} if example == "mini" else {})}
        )
        path = desk / "train" / "builtin" / "configs" / f"{example}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    before = below(desk)
    module, *more = shlex.split(words)
    try:
        code = {"faces": faces, "mini": mini, "captions": captions, "datasets": datasets}[module](more)
    except SystemExit as end:
        code = int(str(end.code))
    shown = capsys.readouterr()
    assert code == 2
    [line] = shown.err.splitlines()
    assert told in line
    assert below(desk) == before


def test_a_path_that_kept_a_run_from_beginning_may_be_mended(desk: Path, tmp_path: Path) -> None:
    """A wrong list is said once everything is there to say it; the right one is then no other configuration."""
    words = ("train", "dfer-clip", "-c", desk / "clips" / "recipe.yaml", "--out", tmp_path / "run")
    assert streamfer(*words, "--set", f"data.train={desk / 'nowhere.csv'}").code == 2
    done = streamfer(*words)
    assert done.code == 0, done.err
    assert "holds a run already; add --resume" in streamfer(*words).err
