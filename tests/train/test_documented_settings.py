"""What docs/training.md, docs/captions.md and the configurations say in words and numbers is what the code has.

Commands are run by test_documented_commands; here every setting, option and number that stands in a sentence, a table
or a shipped configuration is looked up.
"""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import open_clip
import pytest
from pydantic import BaseModel

from streamfer.settings import load_settings
from streamfer_train.dfer_clip.config import MAY_CHANGE, RunConfig
from streamfer_train.dfer_clip.config import load_config as load_dfer
from streamfer_train.exp_blip.config import ExpBlipConfig
from streamfer_train.exp_vqa.config import ExpVqaConfig
from streamfer_train.metrics.published import published
from streamfer_train.recipes.run_folder import flatten

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = REPOSITORY / "configs" / "train"
TRAINING = (REPOSITORY / "docs" / "training.md").read_text(encoding="utf-8")
CAPTIONS = (REPOSITORY / "docs" / "captions.md").read_text(encoding="utf-8").partition("## Captions from labels")[2]
SETTING = re.compile(r"[a-z_][a-z_0-9]*(?:\.[a-z_0-9]+)+")
#: Spans of the same form that are files and modules.
NO_SETTINGS = re.compile(
    r"\.(yaml|md|json|jsonl|csv|py|pt|pth|txt|parquet|safetensors|sqlite)$|^(benchmarks|torch|nltk)\b"
)


def spans(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


def exists(kind: Any, names: list[str]) -> bool:
    """Whether a dotted name leads to a setting of a section."""
    if not names:
        return True
    for one in (kind, *get_args(kind)):
        if isinstance(one, type) and issubclass(one, BaseModel) and names[0] in one.model_fields:
            return exists(one.model_fields[names[0]].annotation, names[1:])
        if is_dataclass(one):
            return names[0] in {field.name for field in fields(one)}
    return False


@pytest.mark.parametrize(("text", "kinds"), [(TRAINING, (RunConfig,)), (CAPTIONS, (ExpBlipConfig, ExpVqaConfig))])
def test_settings_that_are_named_exist(text: str, kinds: tuple[type[BaseModel], ...]) -> None:
    named = {word.partition("=")[0].partition(":")[0] for span in spans(text) for word in span.split()}
    settings = {name for name in named if SETTING.fullmatch(name) and not NO_SETTINGS.search(name)}
    assert len(settings) > (30 if kinds == (RunConfig,) else 5)
    lacking = sorted(name for name in settings if not any(exists(kind, name.split(".")) for kind in kinds))
    assert lacking == []


def test_values_that_are_shown_are_taken() -> None:
    """``a.b=1 c.d=2`` as it stands, and ``a.b``: 1, 2, 3 in tables, one by one."""
    shown = [span.split() for span in spans(TRAINING) if re.match(rf"{SETTING.pattern}=", span)]
    shown += [[f"{name}={value}"] for name, value in re.findall(r"`([a-z_.]+): ([^`\s]+)`", TRAINING) if "." in name]
    for name, values in re.findall(r"`([a-z_]+\.[a-z_]+)`: ([^|;\n]+)", TRAINING):
        shown += [[f"{name}={value}"] for value in re.findall(r"[\w.-]+", re.sub(r"\([^)]*\)", "", values))]
    assert len(shown) > 40
    for words in shown:
        # Which names a file that is not here.
        given = [word for word in words if not word.startswith(("text.descriptors=", "backbone.weights="))]
        load_dfer(CONFIGS / "dfer_clip" / "csv.yaml", given)


def test_options_that_are_named_exist(capsys: pytest.CaptureFixture[str]) -> None:
    known = {"--nproc-per-node", "--model"}
    for module in ("dfer_clip", "exp_blip", "exp_vqa"):
        for part in ("train", "evaluate"):
            with pytest.raises(SystemExit):
                import_module(f"streamfer_train.{module}.__main__").main([part, "--help"])
    for words in (["captions", command] for command in ("rules", "grammar", "rewrite", "fuse", "questions", "check")):
        with pytest.raises(SystemExit):
            import_module(f"streamfer_train.{words[0]}.__main__").main([words[1], "--help"])
    with pytest.raises(SystemExit):
        import_module("streamfer_train.datasets.__main__").main(["--help"])
    known |= set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", TRAINING + CAPTIONS))
    assert sorted(named - known) == []


def test_what_may_change_is_said() -> None:
    said = " ".join(TRAINING.split()).partition("what may change is ")[2].partition(". ")[0]
    assert set(spans(said)) | {"optimiser.epochs"} == set(MAY_CHANGE)


@pytest.mark.parametrize("name", ["dfew", "ferv39k", "mafw", "csv"])
def test_the_table_of_recipes_is_what_they_say(name: str) -> None:
    config = load_dfer(CONFIGS / "dfer_clip" / f"{name}.yaml").data
    (row,) = re.findall(rf"^\| `{name}\.yaml` \| (.*) \|$", TRAINING, re.MULTILINE)
    lists, _, classes, folds, augmentation = row.split(" | ")
    if name != "csv":
        train, test = spans(lists)
        assert (train, train.replace("train.txt", test.strip("._"))) == (config.train, config.test)
        assert (int(classes), int(folds)) == (len(config.class_names), len(config.folds))
        assert len(config.folds) == published("dynamic", name, "folds")
    parts = {"dfew": "brightness, crop, flip", "ferv39k": "rotation up to 4°, crop, flip", "mafw": "crop, flip"}
    assert augmentation == parts[config.augmentation_name]


def test_digests_are_those_that_open_clip_downloads() -> None:
    for name in ("ViT-B/32", "ViT-B/16", "ViT-L/14"):
        (digest,) = re.findall(rf"\| CLIP {name} \|.*\| `(\w{{64}})` \|", TRAINING)
        assert digest in open_clip.get_pretrained_cfg(name.replace("/", "-"), "openai")["url"]


def test_what_goes_beyond_the_paper_has_the_values_that_are_shown() -> None:
    for name, setting in re.findall(r"`beyond/(\w+)\.yaml`; `([^`]+)`", TRAINING):
        config = dict(flatten(load_dfer(CONFIGS / "dfer_clip" / "beyond" / f"{name}.yaml").model_dump(mode="json")))
        key, _, value = setting.partition("=")
        assert not value or str(config[key]).lower() == value, name


def test_the_smaller_pair_is_the_paper_s_but_for_its_towers() -> None:
    files = (CONFIGS / "exp_blip" / f"{name}.yaml" for name in ("paper", "vit_b_opt2.7b"))
    configs = (load_settings(ExpBlipConfig, file, example="") for file in files)
    paper, small = (dict(flatten(config.model_dump(mode="json"))) for config in configs)
    changed = {name: small[name] for name in small if small[name] != paper.get(name)}
    assert changed == {
        "model.language_model": "models/opt-2.7b", "model.start": None,
        "model.vision": "models/mae_pretrain_vit_base.pth", "model.sizes.patch": 16, "model.sizes.vision_width": 768,
        "model.sizes.vision_layers": 12, "model.sizes.vision_heads": 12, "model.sizes.vision_mlp": 3072,
    }  # fmt: skip


def test_the_table_of_switches_is_what_the_configurations_say() -> None:
    released, *others = (
        load_settings(ExpBlipConfig, CONFIGS / "exp_blip" / f"{name}.yaml", example="")
        for name in ("released", "paper", "supplement", "vit_b_opt2.7b")
    )
    for switch in ("language_dropout", "learn_start"):
        (said,) = re.findall(rf"\| `step2\.{switch}`[^|]*\| (\w+) \| (\w+) \|", CAPTIONS)
        for config, word in ((released, said[0]), *((other, said[1]) for other in others)):
            assert str(getattr(config.step2, switch)).lower() == word, switch
    assert "| `augmentation` | RandAugment, `shear: corner` | crop and flip alone |" in CAPTIONS
    assert (released.augmentation.operations > 0, released.augmentation.shear) == (True, "corner")
    assert "| `runtime.precision` | fp16 with a loss scaler | bf16 |" in CAPTIONS
    assert (released.runtime.precision, {other.runtime.precision for other in others}) == ("fp16", {"bf16"})
    assert {other.augmentation.operations for other in others} == {0}
    limits = {config.step2.max_text_tokens for config in (released, *others)}
    assert limits == {int(number) for number in re.findall(r"\| captions cut at \| (\d+) tokens", CAPTIONS)}
    vqa = load_settings(ExpVqaConfig, CONFIGS / "exp_vqa" / "released.yaml", example="")
    assert f"{vqa.data.text.max_words} words" in CAPTIONS.partition("## Training Exp-VQA")[2]


def test_speeds_are_those_of_the_results() -> None:
    results = (REPOSITORY / "docs" / "results" / "training.md").read_text(encoding="utf-8")
    together, loader = re.search(r"measured ([\d.]+) times .*\n?.*loader alone ([\d.]+) times", TRAINING).groups()  # type: ignore[union-attr]
    assert re.search(rf"^\| together \|.*\| {together} \|$", results, re.MULTILINE)
    assert re.search(rf"^\| loader \|.*\*\*{loader}\*\* \|$", results, re.MULTILINE)
