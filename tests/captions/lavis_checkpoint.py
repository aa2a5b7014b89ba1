"""Writes Exp-BLIP and Exp-VQA checkpoints in LAVIS's layout and computes their outputs in plain torch.

The computation is LAVIS's, read off its code and the papers; neither streamfer nor transformers takes part, except
that transformers writes the folders of the tiny language models and tokenizers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
CORPUS = [
    "the face raises the inner brow and pulls the lip corner\n",
    "is the lip corner pulled yes or no\n",
    "yes no yes no what is the emotion of this person\n",
    "the person parts the lips and drops the jaw\n",
]
State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Sizes:
    kind: str = "exp-blip"
    image: int = 28
    patch: int = 7
    width: int = 176
    blocks: int = 3
    heads: int = 2
    mlp: int = 96
    queries: int = 4
    qformer: int = 64
    layers: int = 4
    qformer_heads: int = 1
    qformer_mlp: int = 80
    cross_every: int = 2
    language: int = 48
    language_layers: int = 2
    language_heads: int = 4
    vocabulary: int = 320

    @property
    def instruct(self) -> bool:
        return self.kind == "exp-vqa"

    @property
    def stem(self) -> str:
        return "llm" if self.instruct else "opt"


# -- files ----------------------------------------------------------------------------------------------------


def language_tokenizer(pad: bool, spelled: bool = False) -> Any:
    """A byte-level BPE of the corpus; without merges (``spelled``) every word is many tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=262 if spelled else 310,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"] if pad else ["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 4, trainer)
    named = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "<unk>"} | ({"pad_token": "<pad>"} if pad else {})
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)


def question_tokenizer() -> Any:
    """A WordPiece of whole words and letters with BERT's special tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for line in CORPUS for word in line.split()} | set("abcdefghijklmnopqrstuvwxyz?.,"))
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: index for index, word in enumerate([*specials, *words])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def write_language_model(folder: Path, sizes: Sizes, seed: int = 1, *, spelled: bool = False) -> State:
    """A tiny OPT or LLaMA folder as transformers writes it; returns its weights."""
    from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

    tokenizer = language_tokenizer(pad=not sizes.instruct, spelled=spelled)
    model: Any
    if sizes.instruct:
        rows = len(tokenizer)  # as Vicuna's: one row a token, none to spare for a token to pad with
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=rows, hidden_size=sizes.language, intermediate_size=2 * sizes.language,
                num_hidden_layers=sizes.language_layers, num_attention_heads=sizes.language_heads,
                num_key_value_heads=sizes.language_heads, max_position_embeddings=256, pad_token_id=None,
            )
        )  # fmt: skip
    else:
        model = OPTForCausalLM(
            OPTConfig(
                vocab_size=sizes.vocabulary, hidden_size=sizes.language, word_embed_proj_dim=sizes.language,
                ffn_dim=2 * sizes.language, num_hidden_layers=sizes.language_layers,
                num_attention_heads=sizes.language_heads, max_position_embeddings=256,
            )
        )  # fmt: skip
    torch.manual_seed(seed)
    model.load_state_dict(
        {name: _random(name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()}, strict=False
    )
    model.tie_weights()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _random(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    if "norm" in name.lower() or name.startswith("ln_"):
        return 0.1 * torch.randn(shape) + (1.0 if name.endswith("weight") else 0.0)
    return torch.randn(shape) / math.sqrt(shape[-1]) if len(shape) > 1 else 0.1 * torch.randn(shape)


def make_state(sizes: Sizes, words: int = 0, seed: int = 0) -> State:
    """Random weights under LAVIS's names, without the language model.

    Args:
        sizes: all sizes.
        words: rows of the Q-Former's embeddings, for Exp-VQA.
        seed: of the weights.
    """
    torch.manual_seed(seed)
    width, hidden = sizes.width, sizes.qformer
    shapes: dict[str, tuple[int, ...]] = {
        "query_tokens": (1, sizes.queries, hidden),
        "visual_encoder.cls_token": (1, 1, width),
        "visual_encoder.pos_embed": (1, (sizes.image // sizes.patch) ** 2 + 1, width),
        "visual_encoder.patch_embed.proj.weight": (width, 3, sizes.patch, sizes.patch),
        "visual_encoder.patch_embed.proj.bias": (width,),
    }
    for block in range(sizes.blocks):
        at = f"visual_encoder.blocks.{block}."
        shapes |= {f"{at}attn.{part}_bias": (width,) for part in "qv"} | {f"{at}attn.qkv.weight": (3 * width, width)}
        shapes |= _norm_shapes(f"{at}norm1", width) | _norm_shapes(f"{at}norm2", width)
        shapes |= _linear_shapes(f"{at}attn.proj", width, width)
        shapes |= _linear_shapes(f"{at}mlp.fc1", sizes.mlp, width) | _linear_shapes(f"{at}mlp.fc2", width, sizes.mlp)
    shapes |= _norm_shapes("ln_vision", width) | _norm_shapes("Qformer.bert.embeddings.LayerNorm", hidden)
    if sizes.instruct:
        shapes["Qformer.bert.embeddings.word_embeddings.weight"] = (words, hidden)
        shapes["Qformer.bert.embeddings.position_embeddings.weight"] = (64, hidden)
    for layer in range(sizes.layers):
        at = f"Qformer.bert.encoder.layer.{layer}."
        shapes |= _attention_shapes(f"{at}attention.", hidden, hidden)
        if layer % sizes.cross_every == 0:
            shapes |= _attention_shapes(f"{at}crossattention.", hidden, width)
        for suffix in ("_query", "") if sizes.instruct else ("_query",):
            shapes |= _linear_shapes(f"{at}intermediate{suffix}.dense", sizes.qformer_mlp, hidden)
            shapes |= _linear_shapes(f"{at}output{suffix}.dense", hidden, sizes.qformer_mlp)
            shapes |= _norm_shapes(f"{at}output{suffix}.LayerNorm", hidden)
    shapes |= _linear_shapes(f"{sizes.stem}_proj", sizes.language, hidden)
    state = {name: _random(name, shape) for name, shape in shapes.items()}
    state["query_tokens"] = torch.randn(shapes["query_tokens"])
    state["visual_encoder.cls_token"] = torch.randn(shapes["visual_encoder.cls_token"])
    # The one tensor of LAVIS's own that is no weight.
    state["Qformer.bert.embeddings.position_ids"] = torch.arange(512)[None]
    return state


def _linear_shapes(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _norm_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _attention_shapes(at: str, hidden: int, seen: int) -> dict[str, tuple[int, ...]]:
    shapes = _linear_shapes(f"{at}self.query", hidden, hidden) | _linear_shapes(f"{at}output.dense", hidden, hidden)
    shapes |= _linear_shapes(f"{at}self.key", hidden, seen) | _linear_shapes(f"{at}self.value", hidden, seen)
    return shapes | _norm_shapes(f"{at}output.LayerNorm", hidden)


def write_checkpoint(path: Path, state: State) -> None:
    """Wrap and save as LAVIS's runner does."""
    config = {"model": {"arch": "blip2_opt", "image_size": 224}, "run": {"max_epoch": 20, "init_lr": 1e-5}}
    torch.save({"model": state, "optimizer": {"state": {}}, "config": config, "scaler": None, "epoch": 19}, path)


# -- LAVIS's computation ---------------------------------------------------------------------------------------


def _norm(x: torch.Tensor, state: State, name: str, eps: float) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return (
        centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + eps) * state[f"{name}.weight"]
        + (state[f"{name}.bias"])
    )


def _linear(x: torch.Tensor, state: State, name: str) -> torch.Tensor:
    return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", torch.zeros(()))


def _gelu(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Queries, keys and values (B, N, heads * E); ``mask`` is added to scores (B or 1, 1, Nq, Nk)."""
    q, k, v = (part.reshape(len(part), part.shape[1], heads, -1).transpose(1, 2) for part in (q, k, v))
    scores = torch.einsum("bhid,bhjd->bhij", q * q.shape[-1] ** -0.5, k)
    if mask is not None:
        scores = scores + mask
    weights = torch.exp(scores - scores.amax(-1, keepdim=True))
    mixed = torch.einsum("bhij,bhjd->bhid", weights / weights.sum(-1, keepdim=True), v)
    return mixed.transpose(1, 2).flatten(2)


def reference_vision(state: State, sizes: Sizes, frames: torch.Tensor) -> torch.Tensor:
    """Features (F, P, W) of uint8 frames (F, S, S, 3) that have the model's size."""
    pixels = (frames.permute(0, 3, 1, 2).float() / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[
        :, None, None
    ]
    count, patch, grid = len(pixels), sizes.patch, sizes.image // sizes.patch
    patches = pixels.reshape(count, 3, grid, patch, grid, patch).permute(0, 2, 4, 1, 3, 5).reshape(count, grid**2, -1)
    weight = state["visual_encoder.patch_embed.proj.weight"].flatten(1)
    x = patches @ weight.T + state["visual_encoder.patch_embed.proj.bias"]
    x = torch.cat([state["visual_encoder.cls_token"].expand(count, -1, -1), x], 1) + state["visual_encoder.pos_embed"]
    for block in range(sizes.blocks):
        at = f"visual_encoder.blocks.{block}."
        y = _norm(x, state, f"{at}norm1", 1e-6) @ state[f"{at}attn.qkv.weight"].T
        q, k, v = y.chunk(3, dim=-1)
        y = _attend(q + state[f"{at}attn.q_bias"], k, v + state[f"{at}attn.v_bias"], sizes.heads)
        x = x + _linear(y, state, f"{at}attn.proj")
        y = _gelu(_linear(_norm(x, state, f"{at}norm2", 1e-6), state, f"{at}mlp.fc1"))
        x = x + _linear(y, state, f"{at}mlp.fc2")
    return _norm(x, state, "ln_vision", 1e-5)


def _block(
    x: torch.Tensor, seen: torch.Tensor, state: State, at: str, heads: int, mask: torch.Tensor | None
) -> torch.Tensor:
    q, k, v = (
        _linear(part, state, f"{at}self.{name}") for part, name in ((x, "query"), (seen, "key"), (seen, "value"))
    )
    y = _linear(_attend(q, k, v, heads, mask), state, f"{at}output.dense")
    return _norm(y + x, state, f"{at}output.LayerNorm", 1e-12)


def _feed(x: torch.Tensor, state: State, at: str, suffix: str) -> torch.Tensor:
    y = _linear(_gelu(_linear(x, state, f"{at}intermediate{suffix}.dense")), state, f"{at}output{suffix}.dense")
    return _norm(y + x, state, f"{at}output{suffix}.LayerNorm", 1e-12)


def reference_queries(
    state: State, sizes: Sizes, features: torch.Tensor, ids: torch.Tensor | None = None
) -> torch.Tensor:
    """Query tokens (F, Q, H) of features (F, P, W), for one question's ids (L,) that all frames share."""
    count = sizes.queries
    x = state["query_tokens"].expand(len(features), -1, -1)
    if ids is not None:
        words = state["Qformer.bert.embeddings.word_embeddings.weight"][ids]
        words = words + state["Qformer.bert.embeddings.position_embeddings.weight"][: len(ids)]
        x = torch.cat([x, words.expand(len(features), -1, -1)], dim=1)
    x = _norm(x, state, "Qformer.bert.embeddings.LayerNorm", 1e-12)
    for layer in range(sizes.layers):
        at = f"Qformer.bert.encoder.layer.{layer}."
        x = _block(x, x, state, f"{at}attention.", sizes.qformer_heads, None)
        queries, words = x[:, :count], x[:, count:]
        if layer % sizes.cross_every == 0:
            queries = _block(queries, features, state, f"{at}crossattention.", sizes.qformer_heads, None)
        x = _feed(queries, state, at, "_query")
        if ids is not None:
            x = torch.cat([x, _feed(words, state, at, "")], dim=1)
    return _linear(x[:, :count], state, f"{sizes.stem}_proj")


def reference_logits(language: State, sizes: Sizes, queries: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Logits (N, V) of one row: query tokens (n, H), then words (m,)."""
    decode = _llama if sizes.instruct else _opt
    name = "model.embed_tokens.weight" if sizes.instruct else "model.decoder.embed_tokens.weight"
    return decode(torch.cat([queries, language[name][ids]]), language, sizes)


def _causal(length: int) -> torch.Tensor:
    return torch.full((length, length), -1e30).triu(1)[None, None]


def _opt(x: torch.Tensor, state: State, sizes: Sizes) -> torch.Tensor:
    # OPT numbers positions from 2.
    x = (x + state["model.decoder.embed_positions.weight"][2 : len(x) + 2])[None]
    for layer in range(sizes.language_layers):
        at = f"model.decoder.layers.{layer}."
        y = _norm(x, state, f"{at}self_attn_layer_norm", 1e-5)
        q, k, v = (_linear(y, state, f"{at}self_attn.{part}_proj") for part in "qkv")
        x = x + _linear(_attend(q, k, v, sizes.language_heads, _causal(x.shape[1])), state, f"{at}self_attn.out_proj")
        y = _linear(_norm(x, state, f"{at}final_layer_norm", 1e-5), state, f"{at}fc1").clamp(min=0)
        x = x + _linear(y, state, f"{at}fc2")
    x = _norm(x, state, "model.decoder.final_layer_norm", 1e-5)
    return (x @ state["model.decoder.embed_tokens.weight"].T)[0]


def _llama(x: torch.Tensor, state: State, sizes: Sizes) -> torch.Tensor:
    def scaled(x: torch.Tensor, name: str) -> torch.Tensor:
        return x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-6) * state[f"{name}.weight"]

    length, size = len(x), sizes.language // sizes.language_heads
    angles = torch.arange(length)[:, None] * 10000.0 ** (-torch.arange(0, size, 2) / size)

    def turned(x: torch.Tensor) -> torch.Tensor:
        heads = x.reshape(1, length, -1, size)
        a, b = heads.chunk(2, dim=-1)
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(2)

    x = x[None]
    for layer in range(sizes.language_layers):
        at = f"model.layers.{layer}."
        y = scaled(x, f"{at}input_layernorm")
        q, k, v = (_linear(y, state, f"{at}self_attn.{part}_proj") for part in "qkv")
        y = _attend(turned(q), turned(k), v, sizes.language_heads, _causal(length))
        x = x + _linear(y, state, f"{at}self_attn.o_proj")
        y = scaled(x, f"{at}post_attention_layernorm")
        gate = _linear(y, state, f"{at}mlp.gate_proj")
        y = gate / (1 + torch.exp(-gate)) * _linear(y, state, f"{at}mlp.up_proj")
        x = x + _linear(y, state, f"{at}mlp.down_proj")
    return _linear(scaled(x, "model.norm"), state, "lm_head")[0]
