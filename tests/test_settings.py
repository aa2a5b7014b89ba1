"""Settings of any kind: YAML files, overrides, and messages that name file, setting and the way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, strategies
from pydantic import Field, model_validator

from streamfer.arguments import Section, check_settings
from streamfer.errors import ConfigError
from streamfer.settings import describe_settings, load_settings, put, read_pairs

EXAMPLE = "configs/train/toy.yaml"


class Inner(Section):
    epochs: int = Field(3, ge=1)
    rates: tuple[float, ...] = (0.5,)


class Toy(Section):
    data: Path
    inner: Inner = Inner()

    @model_validator(mode="after")
    def _knows_its_data(self) -> Toy:
        if self.data == Path("nowhere"):
            raise ValueError("data is nowhere: set data")
        return self


def toy(folder: Path, text: str, *overrides: str) -> Toy:
    path = folder / "toy.yaml"
    path.write_text(text, encoding="utf-8")
    return load_settings(Toy, path, overrides, example=EXAMPLE)


def test_overrides_win_and_the_last_of_them_most(tmp_path: Path) -> None:
    found = toy(tmp_path, "data: a\ninner:\n", "inner.epochs=5", "inner.epochs=7", "inner.rates=[1, 2]", "data=b=c")
    assert found == Toy(data=Path("b=c"), inner=Inner(epochs=7, rates=(1.0, 2.0)))


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("- 1\n", [], f"toy.yaml: holds a list; expected sections of settings, as in {EXAMPLE}"),
        ("a: [\n", [], f"toy.yaml: not valid YAML at line 2; compare it with {EXAMPLE}"),
        ("data: a\ninner: {}\ninner:\n  epochs: 2\n", [], "toy.yaml: 'inner' stands there twice at line 3; leave one"),
        ("data: 2024-13-45\n", [], f"toy.yaml: not valid YAML; compare it with {EXAMPLE}"),
        ("inner: {}\n", [], f": data: is missing; see {EXAMPLE}"),
        ("data: a\n", ["inner.epoch=1"], f": inner.epoch: unknown setting; did you mean 'epochs'?; see {EXAMPLE}"),
        (
            "data: a\n",
            ["inner.epochs=0", "other=1"],
            f": inner.epochs: Input should be greater than or equal to 1 (got 0; 1 more); see {EXAMPLE}",
        ),
        ("data: a\n", ["inner.rates=[x]"], ": inner.rates.0: Input should be a valid number"),
        ("data: nowhere\n", [], "toy.yaml: data is nowhere: set data"),
        ("data: a\n", ["inner.epochs"], "--set inner.epochs: has no '='; write inner.epochs=VALUE"),
        ("data: a\n", [""], "--set : has no '='; write NAME=VALUE"),
        ("data: a\n", ["inner.=1"], "--set inner.=1: has no name before '='"),
        ("data: a\n", ["data.b=1"], "data.b: data holds a value, not settings; correct the name"),
        ("data: a\n", ["data=["], "--set data=[: the value is not valid YAML; quote it"),
        ("data: a\n", ["data=2024-13-45"], "--set data=2024-13-45: the value is not valid YAML; quote it"),
    ],
)
def test_what_is_wrong_is_named_on_one_line(tmp_path: Path, text: str, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        toy(tmp_path, text, *overrides)
    assert str(caught.value).endswith(message) or message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"absent\.yaml: no such configuration file; {EXAMPLE} is an example"):
        load_settings(Toy, tmp_path / "absent.yaml", example=EXAMPLE)
    (tmp_path / "toy.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ConfigError, match=r"toy\.yaml: cannot be read \(not a text file\)"):
        load_settings(Toy, tmp_path / "toy.yaml", example=EXAMPLE)


def test_a_recipe_may_say_where_its_settings_are_listed() -> None:
    with pytest.raises(ConfigError) as caught:
        check_settings(Toy, {"data": "a", "speed": 1}, "here", listing="'toy --settings' lists them all")
    assert str(caught.value) == "here: speed: unknown setting; known here: data, inner; 'toy --settings' lists them all"


plain = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers() | strategies.text("abc xyz:#'", max_size=8),
    lambda inner: strategies.lists(inner, max_size=3),
    max_leaves=6,
)
words = strategies.text("abcdefghij_", min_size=1, max_size=4)


@given(strategies.lists(words, min_size=1, max_size=4), plain)
def test_what_is_put_is_found_again(names: list[str], value: Any) -> None:
    values: dict[str, Any] = {"kept": {"as": "it is"}}
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n").removesuffix("\n...")
    for name, read in read_pairs([f"{'.'.join(names)}={text}"]).items():
        put(values, name, read)
    found: Any = values
    for name in names:
        found = found[name]
    assert found == value
    assert names[0] == "kept" or values["kept"] == {"as": "it is"}


@given(strategies.text(max_size=30) | strategies.text("ab.=[]{}!-:0129", max_size=12))
def test_whatever_is_put_is_a_setting_or_one_clear_line(pair: str) -> None:
    values: dict[str, Any] = {"a": 1, "b": {"c": 2}}
    refused = None
    try:
        for name, value in read_pairs([pair]).items():
            put(values, name, value)
    except ConfigError as error:
        refused = str(error)
    if refused is not None:
        assert pair.partition("=")[0] in refused
        return
    found: Any = values
    for name in pair.partition("=")[0].split("."):
        found = found[name]


def test_every_setting_is_described() -> None:
    assert yaml.safe_load(describe_settings(Toy)) == {"data": "REQUIRED", "inner": {"epochs": 3, "rates": [0.5]}}
