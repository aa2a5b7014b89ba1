"""The recipe of the mini model, read from YAML and checked before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from streamfer.arguments import Section
from streamfer.models.efficient import DEPTHS, WIDTH
from streamfer.settings import load_settings
from streamfer_train.recipes.sections import Seed

EXAMPLE = "train/builtin/configs/mini.yaml"


class Sizes(Section):
    """The shipped network: EfficientNet-Lite tower, one temporal block, and the text tower that only training has.

    Crops of 48 pixels are enlarged to `image` pixels, the tower's input.
    """

    layers: tuple[int, int, int, int, int, int, int] = DEPTHS
    width: int = Field(WIDTH, ge=2, multiple_of=2)
    image: int = Field(80, ge=32)
    embed_dim: int = Field(256, ge=8)
    heads: int = Field(4, ge=1)
    dim_head: int = Field(64, ge=1)
    mlp_dim: int = Field(512, ge=1)
    text_layers: int = Field(2, ge=1)
    text_width: int = Field(128, ge=8)
    text_heads: int = Field(2, ge=1)
    context_length: int = Field(40, ge=24)
    contexts: int = Field(8, ge=1)


class Schedule(Section):
    """What every stage has: length, batch and AdamW with warm-up, half a cosine, and a moving average of weights."""

    epochs: int = Field(ge=1)
    batch: int = Field(128, ge=2)
    lr: float = Field(gt=0)
    weight_decay: float = Field(0.05, ge=0)
    warm_up: float = Field(0.04, ge=0, lt=1)
    ema: float = Field(0.999, ge=0, lt=1)
    clip: float = Field(5.0, gt=0)
    seed: Seed = 1


class JointPart(Schedule):
    """Stage `joint`: the tower with its final heads, on photographs and rendered frames together.

    An epoch is a number of drawn `pictures`, not a pass. Of a photograph's target `vote_share` is what annotators voted
    and the rest the set's own label. `render_share` of each batch is rendered; a rendered frame's emotion weighs
    `render_emotion` of a photograph's. A share `mixed` of all pictures has another one mixed in, by up to `mix_reach`.
    Where there are teachers, `distil` of the target is the mean of what they read in the same picture.
    `dropout` is that of the feature before its heads, `drop_path` of the tower's last block, less for those before.
    """

    epochs: int = Field(30, ge=1)
    lr: float = Field(1.5e-3, gt=0)
    pictures: int = Field(26_000, ge=1)
    smoothing: float = Field(0.03, ge=0, lt=1)
    vote_share: float = Field(0.75, ge=0, le=1)
    power: float = Field(0.4, ge=0, le=1)
    faces_share: float = Field(0.2, ge=0, le=1)
    faces_cap: int = Field(3000, ge=1)
    render_share: float = Field(0.12, ge=0, lt=1)
    render_emotion: float = Field(0.25, ge=0)
    action_weight: float = Field(1.0, ge=0)
    mixed: float = Field(0.35, ge=0, le=1)
    mix_reach: float = Field(0.4, ge=0, le=0.5)
    distil: float = Field(0.7, ge=0, le=1)
    strength: float = Field(0.8, ge=0, le=1)
    dropout: float = Field(0.2, ge=0, lt=1)
    drop_path: float = Field(0.1, ge=0, lt=1)
    bf16: bool = False


class Teacher(Section):
    """A tower of the same kind that reads `image` pixels, trained for its own stage `joint` and then only asked."""

    image: int = Field(ge=32)
    joint: JointPart


class ClipsPart(Schedule):
    """Stage `clips`: temporal transformer and prompts, on windows of finished features.

    `pictures` photographs are encoded in `views` views, and every rendered clip. Of each batch `render_share`
    are rendered clips; of the windows made from photographs `static` hold their expression throughout. `distil` of
    their targets is the picture head's, `balance` of its classes' frequencies taken off.
    """

    epochs: int = Field(8, ge=1)
    batch: int = Field(96, ge=2)
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    warm_up: float = Field(0.05, ge=0, lt=1)
    ema: float = Field(0.998, ge=0, lt=1)
    clip: float = Field(1.0, gt=0)
    seed: Seed = 2
    steps: int = Field(300, ge=1)
    pictures: int = Field(20_000, ge=1)
    views: int = Field(3, ge=2)
    power: float = Field(0.35, ge=0, le=1)
    render_share: float = Field(0.35, ge=0, le=1)
    static: float = Field(0.7, ge=0, le=1)
    padded: float = Field(0.2, ge=0, le=1)
    held: float = Field(0.15, ge=0, le=1)
    distil: float = Field(0.8, ge=0, le=1)
    balance: float = Field(0.25, ge=0, le=1)
    direction_weight: float = Field(0.3, ge=0)
    smoothing: float = Field(0.02, ge=0, lt=1)
    temperature: float = Field(0.1, gt=0)


class Recipe(Section):
    """Everything that the recipe reads.

    `data` holds fer2013/, faces/, blendshapes/ and ict_face/; `renders` takes the shards of rendered clips and `work`
    the checkpoints. Training goes on from the weights file `start`; without one it begins at random.
    """

    name: str = Field("mini", pattern=r"^[a-z0-9][a-z0-9._-]*$")
    data: Path
    renders: Path
    work: Path
    start: Literal["pretrained", "random"] | Path = "pretrained"
    device: str = "cpu"
    rendered: int = Field(2_000, ge=1)
    rendered_val: int = Field(300, ge=1)
    sizes: Sizes = Sizes()
    teachers: tuple[Teacher, ...] = ()
    joint: JointPart = JointPart()
    clips: ClipsPart = ClipsPart()

    def of_teacher(self, place: int) -> Recipe:
        """Return the recipe of the teacher at `place`: a folder of its own, stage `joint` alone, and no teachers."""
        teacher = self.teachers[place]
        sizes = self.sizes.model_copy(update={"image": teacher.image})
        work = self.work / f"teacher-{place + 1}"
        own = {"work": work, "sizes": sizes, "joint": teacher.joint, "teachers": ()}
        return self.model_copy(update=own)


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read `path` and settings of the form `joint.epochs=2` (values in YAML).

    Raises:
        ConfigError: the file is absent, is not YAML, or a setting is unknown or out of range.
    """
    return load_settings(Recipe, path, overrides, example=EXAMPLE)
