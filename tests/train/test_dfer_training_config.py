"""The recipe's configuration: the authors' values are the defaults, and what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tiny_clips import write_config

from streamfer.errors import CheckpointError, ConfigError
from streamfer.models.prompts import tokenize_prompts
from streamfer.models.vocabulary import ELEVEN_CLASSES, name_classes
from streamfer.settings import describe_settings
from streamfer_train.dfer_clip.__main__ import main
from streamfer_train.dfer_clip.config import MAY_CHANGE, RunConfig, described, load_config, parse_config
from streamfer_train.dfer_clip.descriptors import DESCRIPTORS, prompts
from streamfer_train.recipes.run_folder import check_same, flatten

RECIPES = Path(__file__).resolve().parents[2] / "configs" / "train" / "dfer_clip"

#: train_DFEW.sh, train_FERV39K.sh and train_MAFW.sh, and the constants of main.py.
AUTHORS = {
    "backbone.name": "ViT-B-32",
    "backbone.weights": "openai",
    "data.frames": 16,
    "data.size": 224,
    "data.oversample": 0.0,
    "data.held_out.fraction": 0.0,
    "text.type": "class_descriptor",
    "text.contexts": 8,
    "text.class_specific": True,
    "text.position": "end",
    "temporal.layers": 1,
    "temporal.heads": 8,
    "temporal.dim_head": 64,
    "temporal.mlp_dim": 1024,
    "temporal.token": "class",
    "heads.kind": "text",
    "heads.temperature": 0.01,
    "heads.label_smoothing": 0.0,
    "optimiser.kind": "sgd",
    "optimiser.temporal_net": 1e-2,
    "optimiser.image_encoder": 1e-5,
    "optimiser.prompt_learner": 1e-3,
    "optimiser.momentum": 0.9,
    "optimiser.weight_decay": 1e-4,
    "optimiser.batch": 48,
    "optimiser.epochs": 50,
    "optimiser.milestones": [30, 40],
    "optimiser.gamma": 0.1,
    "optimiser.schedule": "multistep",
    "optimiser.warmup": 0.0,
    "optimiser.clip": None,
    "optimiser.average": 0.0,
    "optimiser.freeze": [],
    "runtime.precision": "fp32",
    "lora.rank": 0,
    "adapters.width": 0,
    "seeds": [1],
}


def flat(config: RunConfig) -> dict[str, object]:
    return dict(flatten(config.model_dump(mode="json")))


@pytest.mark.parametrize("dataset", ["dfew", "ferv39k", "mafw"])
def test_shipped_recipes_are_the_authors_scripts(dataset: str) -> None:
    config = load_config(RECIPES / f"{dataset}.yaml")
    assert {name: flat(config)[name] for name in AUTHORS} == AUTHORS
    assert config.data.dataset == dataset
    assert config.data.folds == ((1,) if dataset == "ferv39k" else (1, 2, 3, 4, 5))
    assert len(config.data.class_names) == (11 if dataset == "mafw" else 7)


def test_defaults_alone_are_the_authors_values_too() -> None:
    minimal = {"data": {"dataset": "dfew", "train": "a{fold}.txt", "test": "b{fold}.txt"}}
    found = flat(parse_config(minimal, "here"))
    assert {name: found[name] for name in AUTHORS} == AUTHORS


def test_the_recipe_for_ones_own_clips_stops_on_held_out_clips() -> None:
    config = load_config(RECIPES / "csv.yaml")
    assert config.data.held_out.wanted
    assert config.stop.patience > 0
    assert config.export == "held_out"


def test_published_numbers_to_beat_stand_in_the_recipes() -> None:
    numbers = {"dfew": ("76.68", "59.61 / 71.25"), "ferv39k": ("53.65", "41.27 / 51.65"), "mafw": ("58.44", "39.89")}
    for dataset, wanted in numbers.items():
        text = (RECIPES / f"{dataset}.yaml").read_text(encoding="utf-8")
        assert all(number in text for number in wanted)


def test_settings_on_the_command_line_win(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    config = load_config(path, ["optimiser.epochs=7", "text.position=middle", "seeds=[3, 4]", "stop.metric=war"])
    assert (config.optimiser.epochs, config.text.position, config.seeds) == (7, "middle", (3, 4))
    assert config.stop.metric == "war"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "optimiser.epoch=7",
            "optimiser.epoch: unknown setting; did you mean 'epochs'?; 'streamfer train dfer-clip --settings' lists",
        ),
        ("optimiser.epochs=none", "optimiser.epochs"),
        ("optimiser.epochs", "has no '='; write optimiser.epochs=VALUE"),
        ("optimiser.batch.x=1", "holds a value"),
        ("optimiser.accumulate=3", "accumulate 3 does not divide batch 4"),
        ("text.position=centre", "text.position"),
        ("stop.patience=3", "data.held_out.fraction"),
        ("export=held_out", "data.held_out.fraction"),
        ("heads.actions=1", "set data.actions"),
        ("seeds=[1, 1]", "each named once"),
        ("text.type=[", "the value is not valid YAML; quote it"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write_config(tmp_path), [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_lora_and_adapters_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lora\.rank or adapters\.width"):
        load_config(write_config(tmp_path), ["lora.rank=2", "adapters.width=4"])


@pytest.mark.parametrize(
    ("text", "message"),
    [("- 1\n", "holds a list; expected sections of settings"), ("a: [\n", "not valid YAML at line 2")],
)
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_config(path)
    with pytest.raises(ConfigError, match="no such configuration file"):
        load_config(tmp_path / "absent.yaml")


def test_every_setting_is_listed_with_its_default() -> None:
    listed = yaml.safe_load(describe_settings(RunConfig))
    listed["data"] |= {"dataset": "csv", "train": "a", "test": "b"}
    minimal = {"data": {"dataset": "csv", "train": "a", "test": "b"}}
    assert flat(parse_config(listed, "listed")) == flat(parse_config(minimal, "minimal"))


def test_the_first_difference_is_named_and_free_settings_are_not_differences(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    before = load_config(path).model_dump(mode="json")
    moved = load_config(path, ["run.out=elsewhere", "log.every=3", "data.workers=2", "data.root=/x"])
    check_same(tmp_path, before, moved.model_dump(mode="json"), MAY_CHANGE)
    other = load_config(path, ["optimiser.momentum=0.5", "heads.temperature=0.1"]).model_dump(mode="json")
    with pytest.raises(CheckpointError, match=r"heads\.temperature was 0\.01 and is now 0\.1"):
        check_same(tmp_path, before, other, MAY_CHANGE)


def test_descriptors_cover_the_authors_classes_and_are_told_apart() -> None:
    assert set(DESCRIPTORS) == set(ELEVEN_CLASSES)
    texts = prompts(ELEVEN_CLASSES, "class_descriptor")
    ids_CL = tokenize_prompts(texts, contexts=16)
    assert len({tuple(row) for row in ids_CL.tolist()}) == 11
    # The cue words by which an imported checkpoint's classes are recognised find ours as well.
    assert name_classes(texts, "ours") == ELEVEN_CLASSES
    assert name_classes(texts[:7], "ours") == ELEVEN_CLASSES[:7]


def test_text_types_and_own_words() -> None:
    assert prompts(("anger",), "class_names") == ("anger.",)
    assert prompts(("anger",), "class_names_with_context") == ("an expression of anger.",)
    assert prompts(("anger", "pain"), "class_names", {"pain": "a grimace."}) == ("anger.", "a grimace.")
    with pytest.raises(ConfigError, match="no description of 'pain'"):
        prompts(("anger", "pain"), "class_descriptor")
    with pytest.raises(ConfigError, match="'pian' is none of the classes"):
        prompts(("anger", "pain"), "class_descriptor", {"pian": "a grimace."})


TEXT_PY = """'''Texts as the authors keep them.'''
class_names_3 = ['sadness.', 'anger.', 'happiness.']
class_descriptor_3 = [
'tears.', 'red.', 'a wide smile.',  # a comment
]
class_names_with_context_3 = ['x sadness.', 'x anger.', 'x happiness.']
"""


def test_the_authors_texts_are_read_from_their_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, text = write_config(tmp_path), tmp_path / "Text.py"
    text.write_text(TEXT_PY)
    config = load_config(path, [f"text.descriptors={text}"])
    assert config.text.descriptors == {"happiness": "a wide smile.", "sadness": "tears.", "anger": "red."}
    assert described(config)["source"] == "Text.py"
    assert described(config)["digest"] != described(load_config(path))["digest"]
    named = load_config(path, [f"text.descriptors={text}", "text.type=class_names_with_context"])
    assert named.text.descriptors == {"happiness": "x happiness.", "sadness": "x sadness.", "anger": "x anger."}
    assert main(["train", "-c", str(path), "--check", "--set", f"text.descriptors={text}"]) == 0
    assert "TEXT: class_descriptor of Text.py (sha256" in capsys.readouterr().out
    assert main(["train", "-c", str(path), "--check"]) == 0
    assert "NOT the authors' tokens" in capsys.readouterr().out


def test_texts_come_from_json_and_yaml_too(tmp_path: Path) -> None:
    path, own = write_config(tmp_path), tmp_path / "texts.yaml"
    own.write_text("Happy: smile.\nsadness: tears.\nanger: red.\nfear: unused.\n")
    other = tmp_path / "texts.json"
    other.write_text('{\n\t"happiness": "smile.",\n\t"sadness": "tears.",\n\t"anger": "red."\n}')
    for file in (own, other):
        assert load_config(path, [f"text.descriptors={file}"]).text.descriptors == {
            "happiness": "smile.", "sadness": "tears.", "anger": "red."
        }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("Text.py", "import os\n", r"line 1: 'import os' is more than a list of texts; nothing was run"),
        ("Text.py", "a = [open('x').read()]\n", "is more than a list of texts"),
        ("Text.py", "class_names_7 = ['a.']\n", "has no lists class_names_3 and class_descriptor_3"),
        ("Text.py", "class_names_3 = [\n", "cannot be read"),
        ("texts.json", '{"anger": "red."}', "has no text of 'happiness'"),
        ("texts.json", '["red."]', "must hold a text for each class"),
        ("texts.json", None, "cannot be read"),
    ],
)
def test_texts_that_cannot_be_used_are_named(tmp_path: Path, name: str, contents: str | None, message: str) -> None:
    path = write_config(tmp_path)
    if contents is not None:
        (tmp_path / name).write_text(contents)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path, [f"text.descriptors={tmp_path / name}"])
    assert str(caught.value).count("text.descriptors: ") == 1


@pytest.mark.parametrize("path", sorted((RECIPES / "beyond").glob("*.yaml")), ids=lambda path: path.stem)
def test_what_goes_beyond_the_paper_has_a_configuration_that_changes_little(path: Path) -> None:
    published, own = load_config(RECIPES / "dfew.yaml"), load_config(path)
    changed = {name for name, value in flatten(own.model_dump(mode="json"))
               if dict(flatten(published.model_dump(mode="json"))).get(name) != value}  # fmt: skip
    wanted = {
        "lora": {"lora.rank"}, "adapters": {"adapters.width"}, "pooling": {"temporal.token"},
        "vit_l14": {"backbone.name", "optimiser.accumulate", "runtime.precision", "runtime.checkpointing"},
        "soft_labels": {"data.votes", "data.dataset", "data.classes", "data.train", "data.test"},
    }  # fmt: skip
    assert changed - {"run.out", "data.input", "data.workers", "data.augmentation"} == wanted[path.stem]
