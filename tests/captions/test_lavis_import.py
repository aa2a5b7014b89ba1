"""Import of Exp-BLIP and Exp-VQA checkpoints equals LAVIS's computation; what does not fit is named."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lavis_checkpoint import (
    Sizes,
    State,
    make_state,
    question_tokenizer,
    reference_logits,
    reference_queries,
    reference_vision,
    write_checkpoint,
    write_language_model,
)

from streamfer.captions import import_lavis, list_captioners, load_captioner
from streamfer.captions.card import CaptionCard
from streamfer.captions.query_captioner import QueryCaptioner
from streamfer.errors import CheckpointError, ConfigError, SourceNotFoundError, UnsafeCheckpointError

QUESTIONS = ("is the lip corner pulled?", "what is the emotion of this person, and which brow is raised?")


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMFER_HOME", str(tmp_path / "home"))


@dataclass(frozen=True)
class Made:
    """A checkpoint, the folders beside it, and the weights in them."""

    sizes: Sizes
    path: Path
    state: State
    language: State
    folders: dict[str, Path]


def make(tmp_path: Path, sizes: Sizes, *, whole: bool = False, spelled: bool = False) -> Made:
    language = write_language_model(tmp_path / "language", sizes, spelled=spelled)
    folders = {"language_model": tmp_path / "language"}
    words = 0
    if sizes.instruct:
        tokenizer = question_tokenizer()
        tokenizer.save_pretrained(tmp_path / "words")
        folders["question_tokenizer"] = tmp_path / "words"
        words = len(tokenizer) + 1
    state = make_state(sizes, words)
    kept = dict(state)
    if whole:
        # A language model in the checkpoint goes before the folder's.
        torch.manual_seed(5)
        language = {name: tensor + 0.05 * torch.randn_like(tensor) for name, tensor in language.items()}
        if sizes.instruct:
            for name in ("model.embed_tokens.weight", "lm_head.weight"):
                language[name] = torch.cat([language[name], 0.1 * torch.randn(1, sizes.language)])
        else:
            language["lm_head.weight"] = language["model.decoder.embed_tokens.weight"]
        kept |= {f"{sizes.stem}_model.{name}": tensor for name, tensor in language.items()}
    write_checkpoint(tmp_path / "official.pth", kept)
    return Made(sizes, tmp_path / "official.pth", state, language, folders)


def imported(made: Made, **options: Any) -> QueryCaptioner:
    import_lavis(made.path, "tiny", **made.folders)  # type: ignore[arg-type]
    captioner = load_captioner("tiny", device="cpu", precision="fp32", **options)
    assert isinstance(captioner, QueryCaptioner)
    return captioner


def clips(sizes: Sizes, counts: tuple[int, ...] = (1, 3)) -> list[Any]:
    random = np.random.default_rng(3)
    return [random.integers(0, 256, (count, sizes.image, sizes.image, 3), dtype=np.uint8) for count in counts]


def reference_rows(made: Made, captioner: QueryCaptioner, given: list[Any], questions: tuple[str, ...]) -> list[Any]:
    """Query tokens and prompt ids of every row, by LAVIS's computation; the tokenizers are the folder's."""
    from transformers import AutoTokenizer

    language = AutoTokenizer.from_pretrained(made.folders["language_model"])
    rows = []
    for clip, question in zip(given, questions, strict=True):
        features = reference_vision(made.state, made.sizes, torch.from_numpy(clip))
        ids = torch.tensor(question_tokenizer()(question)["input_ids"]) if made.sizes.instruct else None
        queries = reference_queries(made.state, made.sizes, features, ids).flatten(0, 1)
        start = language.convert_tokens_to_ids("</s>")
        words = language(question, add_special_tokens=False)["input_ids"] if made.sizes.instruct else []
        rows.append((queries, torch.tensor([start, *words])))
    return rows


VARIANTS = {
    "exp-blip": (Sizes(), False),
    "exp-blip-with-its-opt": (Sizes(), True),
    "exp-vqa": (Sizes(kind="exp-vqa"), False),
    "exp-vqa-with-its-vicuna": (Sizes(kind="exp-vqa"), True),
    "other-sizes": (
        Sizes(width=128, heads=2, blocks=2, patch=14, queries=7, qformer=128, qformer_heads=2, layers=5, cross_every=3),
        False,
    ),
}


@pytest.mark.parametrize(("sizes", "whole"), VARIANTS.values(), ids=VARIANTS.keys())
def test_everything_equals_the_reference(tmp_path: Path, sizes: Sizes, whole: bool) -> None:
    made = make(tmp_path, sizes, whole=whole)
    captioner = imported(made, num_beams=1, max_new_tokens=6)
    given = clips(sizes)
    questions = QUESTIONS if sizes.instruct else ("", "")
    # Vision and Q-Former, frame by frame.
    frames = np.concatenate(given)
    features = captioner.look(frames)
    expected = reference_vision(made.state, sizes, torch.from_numpy(frames))
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=0)
    asked = [questions[0]] + [questions[1]] * 3
    rows = reference_rows(made, captioner, given, questions)
    queries = captioner.query(features, asked if sizes.instruct else None)
    torch.testing.assert_close(queries.flatten(0, 1), torch.cat([row[0] for row in rows]), atol=1e-4, rtol=0)
    # Logits, rows of different lengths in one batch.
    table = made.language["model.embed_tokens.weight" if sizes.instruct else "model.decoder.embed_tokens.weight"]
    longest = max(len(row[0]) + len(row[1]) for row in rows)
    embeds, mask = torch.zeros(2, longest, sizes.language), torch.zeros(2, longest, dtype=torch.int64)
    for index, (tokens, ids) in enumerate(rows):
        length = len(tokens) + len(ids)
        embeds[index, longest - length :] = torch.cat([tokens, table[ids]])
        mask[index, longest - length :] = 1
    logits = captioner.logits(embeds, mask, last=longest)
    for index, (tokens, ids) in enumerate(rows):
        wanted = reference_logits(made.language, sizes, tokens, ids)
        assert wanted.std() > 0.5  # a constant would be easy to equal
        found = logits[index, longest - len(wanted) :, : wanted.shape[1]]
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["exp-blip", "exp-vqa"])
def test_text_and_yes_equal_the_reference(tmp_path: Path, kind: str) -> None:
    sizes = Sizes(kind=kind)
    made = make(tmp_path, sizes)
    captioner = imported(made, num_beams=1, max_new_tokens=8)
    given = clips(sizes)
    questions = QUESTIONS if sizes.instruct else ("", "")
    rows = reference_rows(made, captioner, given, questions)
    text = captioner._text
    captions = captioner.caption(given, questions if sizes.instruct else None)
    for (tokens, ids), caption in zip(rows, captions, strict=True):
        words = _greedy(made, tokens, ids, text.end_id, text.pad_id, captioner.card.text.repetition_penalty)
        assert caption == text.tokenizer.decode(words, skip_special_tokens=True).strip()
    if sizes.instruct:
        shares = captioner.answer_yes_no(given, questions)
        for (tokens, ids), share in zip(rows, shares, strict=True):
            yes, no = (_likelihood(made, tokens, ids, text._encode(word)) for word in ("yes", "no"))
            assert share == pytest.approx(1 / (1 + float(torch.exp(no - yes))), abs=1e-4)


def _greedy(made: Made, tokens: torch.Tensor, ids: torch.Tensor, end: int, pad: int, penalty: float) -> list[int]:
    words: list[int] = []
    for step in range(8):
        logits = reference_logits(made.language, made.sizes, tokens, torch.tensor([*ids.tolist(), *words]))[-1]
        for word in set(words):
            logits[word] = logits[word] / penalty if logits[word] > 0 else logits[word] * penalty
        if pad < len(logits):
            logits[pad] = -torch.inf
        if step == 0:
            logits[end] = -torch.inf  # at least one token
        best = int(logits.argmax())
        if best == end:
            break
        words.append(best)
    return words


def _likelihood(made: Made, tokens: torch.Tensor, ids: torch.Tensor, answer: list[int]) -> torch.Tensor:
    logits = reference_logits(made.language, made.sizes, tokens, torch.tensor([*ids.tolist(), *answer]))
    logs = logits.log_softmax(-1)[-len(answer) - 1 : -1]
    return logs[torch.arange(len(answer)), answer].sum()


def test_answers_of_several_tokens_are_weighed_whole(tmp_path: Path) -> None:
    made = make(tmp_path, Sizes(kind="exp-vqa"), spelled=True)
    captioner = imported(made)
    assert len(captioner._text.yes_ids[0]) == 3
    given = clips(made.sizes, (2,))
    ((tokens, ids),) = reference_rows(made, captioner, given, QUESTIONS[:1])
    yes, no = (_likelihood(made, tokens, ids, captioner._text._encode(word)) for word in ("yes", "no"))
    share = captioner.answer_yes_no(given, QUESTIONS[:1])
    assert share == pytest.approx([1 / (1 + float(torch.exp(no - yes)))], abs=1e-4)


def test_sizes_come_from_the_tensors(tmp_path: Path) -> None:
    sizes = Sizes(width=128, heads=2, patch=14, image=28, queries=5, layers=5, cross_every=3)
    made = make(tmp_path, sizes)
    made_card = import_lavis(made.path, "tiny", **made.folders)  # type: ignore[arg-type]
    card = list_captioners()["tiny"]
    found = card.train["sizes"]
    assert (found["image"], found["patch"], found["vision_width"], found["vision_heads"]) == (28, 14, 128, 2)
    assert (found["queries"], found["qformer_layers"], found["cross_every"]) == (5, 5, 3)
    assert (card.pixels.size, card.pixels.interpolation, card.text.end_token) == (28, "bicubic", "\n")
    assert card.text.max_new_tokens >= 200
    assert card.text.num_beams == 5
    assert [(name, one.answers) for name, one in entries().items()] == [("tiny", False)]
    assert card == made_card
    assert card.size_bytes == sum(one.size for one in card.files.values()) > 0


def test_a_language_model_of_bin_files_serves(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    made = make(tmp_path, Sizes())
    folder = made.folders["language_model"]
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({name.removeprefix("model."): tensor for name, tensor in tensors.items()}, folder / "pytorch_model.bin")
    captioner = imported(made)
    clip = clips(made.sizes, (1,))
    rows = reference_rows(made, captioner, clip, ("",))
    table = captioner._model.language_model.get_input_embeddings().weight
    row = torch.cat([rows[0][0], table[rows[0][1]]])[None]
    logits = captioner.logits(row, torch.ones(row.shape[:2], dtype=torch.int64), last=1)[0, -1]
    torch.testing.assert_close(logits, reference_logits(made.language, made.sizes, *rows[0])[-1], atol=1e-4, rtol=0)


def test_half_precision_weights_take_biases_of_fp32(tmp_path: Path) -> None:
    made = make(tmp_path, Sizes())
    vision = {
        name: tensor.half() if name.startswith("visual_encoder.") and "_bias" not in name else tensor
        for name, tensor in made.state.items()
    }
    write_checkpoint(made.path, vision)
    captioner = imported(made)
    frames = clips(made.sizes, (2,))[0]
    expected = reference_vision({k: v.float() for k, v in vision.items()}, made.sizes, torch.from_numpy(frames))
    # The biases are rounded to half precision with the weights that they belong to.
    torch.testing.assert_close(captioner.look(frames), expected, atol=5e-3, rtol=0)


# -- what does not fit -----------------------------------------------------------------------------------------

MISSING = [
    ("exp-blip", "query_tokens"),
    ("exp-blip", "ln_vision.bias"),
    ("exp-blip", "visual_encoder.blocks.1.attn.v_bias"),
    ("exp-blip", "Qformer.bert.encoder.layer.2.crossattention.self.key.weight"),
    ("exp-blip", "Qformer.bert.encoder.layer.3.output_query.LayerNorm.weight"),
    ("exp-blip", "opt_proj.weight"),
    ("exp-vqa", "Qformer.bert.embeddings.word_embeddings.weight"),
    ("exp-vqa", "Qformer.bert.encoder.layer.0.intermediate.dense.weight"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    return {kind: make(tmp_path_factory.mktemp(kind), Sizes(kind=kind)) for kind in ("exp-blip", "exp-vqa")}


def entries() -> dict[str, CaptionCard]:
    """The captioners beside the built-in one."""
    return list_captioners()


def refused(made: Made, path: Path, state: State, error: type[Exception] = CheckpointError) -> str:
    write_checkpoint(path, state)
    with pytest.raises(error) as caught:
        import_lavis(path, "broken", **made.folders)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)
    assert entries() == {}
    return str(caught.value)


@pytest.mark.parametrize(("kind", "name"), MISSING)
def test_the_first_missing_tensor_is_named(folders: dict[str, Made], tmp_path: Path, kind: str, name: str) -> None:
    made = folders[kind]
    state = {key: tensor for key, tensor in made.state.items() if key != name}
    message = refused(made, tmp_path / "broken.pth", state)
    assert f"tensor '{name}' " in message
    assert "missing" in message


def test_wrong_shapes_strangers_and_numbers_are_named(folders: dict[str, Made], tmp_path: Path) -> None:
    made, path = folders["exp-blip"], tmp_path / "broken.pth"
    bias = "visual_encoder.blocks.0.attn.q_bias"
    assert "'ln_vision.weight' has shape (7,); expected (176,)" in refused(
        made, path, made.state | {"ln_vision.weight": torch.ones(7)}
    )
    assert f"'{bias}' has shape (528,); expected (176,)" in refused(made, path, made.state | {bias: torch.ones(528)})
    assert "'Qformer.cls.bias' is not part" in refused(made, path, made.state | {"Qformer.cls.bias": torch.ones(2)})
    assert "'query_tokens' holds values that are not finite" in refused(
        made, path, made.state | {"query_tokens": made.state["query_tokens"] * torch.nan}
    )


def test_a_partial_language_model_is_named(folders: dict[str, Made], tmp_path: Path) -> None:
    made = folders["exp-blip"]
    own = {f"opt_model.{name}": tensor for name, tensor in made.language.items()}
    del own["opt_model.model.decoder.layers.1.fc2.weight"]
    message = refused(made, tmp_path / "broken.pth", made.state | own)
    assert "the language model: missing keys: 'model.decoder.layers.1.fc2.weight'" in message


def test_foreign_checkpoints_say_what_they_are(folders: dict[str, Made], tmp_path: Path) -> None:
    made, path = folders["exp-blip"], tmp_path / "broken.pth"
    first = {name: tensor for name, tensor in made.state.items() if "opt_proj" not in name}
    assert "first stage" in refused(made, path, first | {"itm_head.weight": torch.ones(2, 64)})
    assert "FlanT5" in refused(made, path, first | {"t5_proj.weight": torch.ones(2, 64)})
    assert "is this a LAVIS checkpoint" in refused(made, path, {"image_encoder.conv1.weight": torch.ones(2, 2)})


def test_a_truncated_file_and_a_hostile_one(folders: dict[str, Made], tmp_path: Path) -> None:
    made = folders["exp-blip"]
    data = made.path.read_bytes()
    (tmp_path / "half.pth").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"half\.pth: damaged or incomplete"):
        import_lavis(tmp_path / "half.pth", "x", **made.folders)  # type: ignore[arg-type]
    (tmp_path / "evil.pth").write_bytes(b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00id\x85R.")
    with pytest.raises(UnsafeCheckpointError):
        import_lavis(tmp_path / "evil.pth", "x", **made.folders)  # type: ignore[arg-type]


def test_the_wrong_language_model_is_named(folders: dict[str, Made], tmp_path: Path) -> None:
    made = folders["exp-blip"]
    write_language_model(tmp_path / "other", dataclasses.replace(made.sizes, language=64))
    with pytest.raises(CheckpointError, match=r"'opt_proj.weight' writes for a language model of width 48; .* has 64"):
        import_lavis(made.path, "x", language_model=tmp_path / "other")
    with pytest.raises(SourceNotFoundError, match="no such folder"):
        import_lavis(made.path, "x", language_model=tmp_path / "absent")
    with pytest.raises(CheckpointError, match="no tokenizer"):
        import_lavis(made.path, "x", language_model=tmp_path)
    with pytest.raises(ConfigError, match="--question-tokenizer"):
        import_lavis(folders["exp-vqa"].path, "x", language_model=folders["exp-vqa"].folders["language_model"])


def test_names_that_are_taken(folders: dict[str, Made], tmp_path: Path) -> None:
    made = folders["exp-blip"]
    models = tmp_path / "home" / "models"
    models.mkdir(parents=True)
    (models / "labels.safetensors").touch()
    for name, words in (("mini", "built-in"), ("labels", "expression model"), ("../evil", "letters, digits")):
        with pytest.raises(ConfigError, match=words):
            import_lavis(made.path, name, **made.folders)  # type: ignore[arg-type]


def test_importing_again_replaces_and_leaves_nothing(folders: dict[str, Made], tmp_path: Path) -> None:
    made = folders["exp-blip"]
    digests = set()
    for seed, path in itertools.product((0, 7), [tmp_path / "again.pth"]):
        write_checkpoint(path, make_state(made.sizes, seed=seed))
        digests.add(import_lavis(path, "again", **made.folders).digest)  # type: ignore[arg-type]
    assert len(digests) == 2
    assert [path.name for path in (tmp_path / "home" / "models").iterdir()] == ["again"]
