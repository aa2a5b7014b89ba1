"""Import of the authors' DFER-CLIP checkpoints from their bytes alone.

Every size is read off the tensors, the prompts' tokens are recovered by matching embeddings, the class
features are computed once in fp32, and what inference needs goes into a weights file of streamfer.

Shape suffixes: C classes, K context vectors, L tokens of a prompt, V vocabulary, W width of the text tower.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from streamfer.errors import CheckpointError, ConfigError
from streamfer.files import sha256_of
from streamfer.geometry import squashed_crop
from streamfer.models.card import SUFFIX, ModelCard, PixelProfile
from streamfer.models.checkpoints import Tensors, read_state_dict
from streamfer.models.dfer_clip import DferClip
from streamfer.models.prompts import Position, PromptConfig, PromptLearner, clip_tokenizer
from streamfer.models.registry import ModelEntry, check_name, user_folder
from streamfer.models.sizes import DferClipConfig, TemporalConfig, TextConfig, VisionConfig
from streamfer.models.vocabulary import name_classes
from streamfer.models.weights import check_tensors, unfilled, write_weights

log = logging.getLogger(__name__)

LICENCE = "as the checkpoint's authors state (DFER-CLIP's code is MIT; the datasets are for research only)"
_CLIP_COPY = "clip_model_."
#: CLIP's heads are 64 wide at every published size.
_HEAD_WIDTH = 64


@dataclass(frozen=True, slots=True)
class OfficialCheckpoint:
    """What a checkpoint's tensors say about it."""

    model: DferClip  #: with its prompts, fp32, its weights loaded, in evaluation mode
    descriptions: tuple[str, ...]  #: text of each class's prompt, decoded from its tokens
    prompt: PromptConfig


def _heads(width: int, which: str, where: str) -> int:
    heads = max(1, width // _HEAD_WIDTH)
    if width % heads:
        raise CheckpointError(f"{where}: {heads} {which} heads of {_HEAD_WIDTH} do not divide a width of {width}")
    return heads


def _ratio(hidden: int, width: int) -> float:
    """Return the MLP ratio from which ``int(width * ratio)``, as the towers round, gives back ``hidden``."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def _vision(found: Tensors) -> tuple[VisionConfig, int]:
    width, _, patch, _ = found.shape("image_encoder.conv1.weight", 4)
    _, embed_dim = found.shape("image_encoder.proj", 2)
    side = found.side("image_encoder.positional_embedding", 2)
    hidden, _ = found.shape("image_encoder.transformer.resblocks.0.mlp.c_fc.weight", 2)
    config = VisionConfig(
        layers=found.depth("image_encoder.transformer.resblocks."),
        width=width,
        head_width=width // _heads(width, "vision", found.where),
        mlp_ratio=_ratio(hidden, width),
        patch_size=patch,
        image_size=side * patch,
    )
    return config, embed_dim


def _text(found: Tensors) -> TextConfig:
    length, width = found.shape("text_encoder.positional_embedding", 2)
    hidden, _ = found.shape("text_encoder.transformer.resblocks.0.mlp.c_fc.weight", 2)
    layers, heads = found.depth("text_encoder.transformer.resblocks."), _heads(width, "text", found.where)
    return TextConfig(layers, width, heads, length, _ratio(hidden, width))


def _temporal(found: Tensors) -> TemporalConfig:
    blocks = "temporal_net.temporal_transformer.layers."
    _, positions, _ = found.shape("temporal_net.pos_embedding", 3)
    rows, _ = found.shape(f"{blocks}0.0.fn.fn.to_qkv.weight", 2)
    hidden, _ = found.shape(f"{blocks}0.1.fn.fn.net.0.weight", 2)
    if rows % 3:
        raise CheckpointError(f"{found.where}: tensor '{blocks}0.0.fn.fn.to_qkv.weight' has {rows} rows, not 3 x heads")
    inner = rows // 3
    count = _heads(inner, "temporal", found.where)
    return TemporalConfig(
        layers=found.depth(blocks), heads=count, dim_head=inner // count, mlp_dim=hidden, frames=positions - 1
    )


def recover_tokens(embeddings_CLW: torch.Tensor, table_VW: torch.Tensor, where: str) -> torch.Tensor:
    """Return ids (C, L) whose rows of the table equal the embeddings exactly; a CheckpointError where one has none."""
    wanted, inverse = torch.unique(embeddings_CLW.flatten(0, 1), dim=0, return_inverse=True)
    ids = torch.empty(len(wanted), dtype=torch.int64)
    for index, row in enumerate(wanted):
        same = (table_VW[:, 0] == row[0]).nonzero()[:, 0]
        same = same[(table_VW[same] == row).all(dim=1)]
        if not len(same):
            raise CheckpointError(
                f"{where}: tensor 'prompt_learner.token_suffix' holds an embedding that is not in "
                "'clip_model_.token_embedding.weight'; the prompts cannot be recovered"
            )
        ids[index] = same[0]
    return ids[inverse].reshape(embeddings_CLW.shape[:2])


def describe(token_ids_CL: torch.Tensor, contexts: int) -> tuple[str, ...]:
    """Decode the description of each prompt: the tokens between the context and the end token."""
    tokenizer = clip_tokenizer()
    texts = []
    for row in token_ids_CL:
        body = row[1 + contexts : int(row.argmax())].tolist()
        texts.append(tokenizer.decode([number for number in body if number in tokenizer.decoder]).strip())
    return tuple(texts)


def _prompts(found: Tensors, text: TextConfig, position: Position) -> tuple[PromptLearner, torch.Tensor, PromptConfig]:
    tensors = found.tensors
    classes, _, width = found.shape("prompt_learner.token_prefix", 3)
    _, rest, _ = found.shape("prompt_learner.token_suffix", 3)
    table_name = f"{_CLIP_COPY}token_embedding.weight"
    found.shape(table_name, 2)
    ctx = tensors.get("prompt_learner.ctx")
    if ctx is None or ctx.dim() not in (2, 3):
        raise CheckpointError(
            f"{found.where}: tensor 'prompt_learner.ctx' is missing or has no two or three dimensions"
        )
    config = PromptConfig(contexts=ctx.shape[-2], class_specific=ctx.dim() == 3, position=position)
    if 1 + config.contexts + rest != text.context_length or width != text.width:
        raise CheckpointError(
            f"{found.where}: prompts of {1 + config.contexts + rest} tokens of width {width} do not fit "
            f"a text tower of {text.context_length} tokens of width {text.width}"
        )
    table = tensors[table_name].float()
    fixed = torch.cat([tensors["prompt_learner.token_prefix"], tensors["prompt_learner.token_suffix"]], dim=1)
    fixed_ids = recover_tokens(fixed.float(), table, found.where)
    # Placeholders stand where the learned vectors do; any id below the end token's serves.
    placeholders = torch.zeros(classes, config.contexts, dtype=torch.int64)
    token_ids = torch.cat([fixed_ids[:, :1], placeholders, fixed_ids[:, 1:]], dim=1)
    # The start token has the second largest id of CLIP's vocabulary, so the end token still is the maximum.
    return PromptLearner(config, token_ids, table), token_ids, config


def read_official(
    path: Path, *, classes: Sequence[str] | None = None, position: Position = "end"
) -> OfficialCheckpoint:
    """Read a checkpoint of the authors into a model with its prompts; raises what :func:`import_checkpoint` does."""
    where = str(path)
    found = Tensors(read_state_dict(path), where, "checkpoint of DFER-CLIP")
    (vision, embed_dim), text, temporal = _vision(found), _text(found), _temporal(found)
    prompts, token_ids, prompt = _prompts(found, text, position)
    descriptions = describe(token_ids, prompt.contexts)
    names = tuple(classes) if classes is not None else name_classes(descriptions, where)
    if len(names) != len(descriptions):
        raise ConfigError(f"{where}: {len(names)} class names given; the checkpoint has {len(descriptions)} classes")
    config = DferClipConfig(classes=names, embed_dim=embed_dim, vision=vision, temporal=temporal)
    with unfilled():
        model = DferClip(config, text=text, prompts=prompts)
    wanted = {name: tensor for name, tensor in found.tensors.items() if not name.startswith(_CLIP_COPY)}
    check_tensors(model.state_dict(), wanted, where)
    _check_copies(found)
    model.load_state_dict({name: tensor.float() for name, tensor in wanted.items()}, assign=True)
    return OfficialCheckpoint(model.requires_grad_(False).eval(), descriptions, prompt)


def _check_copies(found: Tensors) -> None:
    """The second copy of CLIP in a checkpoint must be the same weights; another copy means a tampered file."""
    for name, copy in found.tensors.items():
        inner = name.removeprefix(_CLIP_COPY)
        if inner == name:
            continue
        visual = inner.removeprefix("visual.")
        twin_name = f"image_encoder.{visual}" if visual != inner else f"text_encoder.{inner}"
        twin = found.tensors.get(twin_name)
        if twin is not None and not torch.equal(twin, copy):
            raise CheckpointError(f"{found.where}: tensors {name!r} and {twin_name!r} should be equal and are not")


def import_checkpoint(
    path: str | Path,
    name: str | None = None,
    *,
    classes: Sequence[str] | None = None,
    position: Position = "end",
    licence: str = LICENCE,
    output: Path | None = None,
) -> ModelEntry:
    """Turn a checkpoint of the authors into a weights file that :func:`load_model` takes by name.

    Args:
        path: the checkpoint.
        name: name to load it by; the file's stem where not given.
        classes: class names in order, overriding those recovered from the prompts.
        position: where the description stands in the prompt, which no checkpoint says; "end" in the authors' scripts.
        licence: licence of the weights in plain words.
        output: file to write instead of the user's models folder.

    Raises:
        SourceNotFoundError: no such file.
        UnsafeCheckpointError: the file asks to run something; nothing was run.
        CheckpointError: damaged, or not this architecture.
        ConfigError: the name or the class names cannot be used.
        OutputError: the weights file cannot be written.
    """
    source = Path(path)
    name = name if name is not None else source.stem
    check_name(name)
    official = read_official(source, classes=classes, position=position)
    config = official.model.config
    size = config.vision.image_size
    card = ModelCard(
        name=name,
        config=config,
        pixels=PixelProfile(size=size),
        crop=squashed_crop(size),
        licence=licence,
        train={
            "imported_from": source.name,
            "imported_digest": sha256_of(source),
            "descriptions": list(official.descriptions),
            **asdict(official.prompt),
        },
    )
    target = output or user_folder() / f"{name}{SUFFIX}"
    write_weights(target, official.model, card)
    facts = {"model": name, "path": str(target), "classes": list(config.classes), "licence": licence}
    log.info("model.imported", extra=facts)
    return ModelEntry.of(name, target, card)
