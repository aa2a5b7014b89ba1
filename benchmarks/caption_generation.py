"""Captions a second: streamfer's captioners in batches against transformers' ``generate``, one picture at a time.

    python benchmarks/caption_generation.py                                      # random weights, sizes for a CPU
    python benchmarks/caption_generation.py --system exp-vqa --beams 5
    python benchmarks/caption_generation.py --size published --device cuda --precision bf16    # a GPU with 24 GB
    python benchmarks/caption_generation.py --captioner FOLDER           # a trained one, against itself alone

Both sides have the same weights, pictures, prompt and search, and write the same number of tokens. One side calls the
model's own ``generate`` for each picture, as its documentation shows; the other gives all pictures to
``Captioner.caption``. Before anything is timed their texts are compared: 16-bit types may differ by a rounding, 32-bit
ones must not. Sides alternate and medians are reported. A trained captioner has no ``generate`` of transformers' to be
compared with: it is called with one clip at a time instead.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, PreTrainedTokenizerFast

from streamfer.captions import load_captioner
from streamfer.captions.architecture import QuerySizes, build_model
from streamfer.captions.card import CaptionCard, TextCard, clip_pixels, face_crop
from streamfer.captions.protocol import Captioner
from streamfer.captions.query_captioner import QueryCaptioner
from streamfer.captions.text import PromptText
from streamfer.errors import UserError
from streamfer.models.inference import prepare_pixels
from streamfer.models.precision import DTYPES

ARCHITECTURES = {"exp-blip": "blip-2", "exp-vqa": "instructblip"}
#: Words of OPT.
VOCABULARY = 50_272
#: Everything but the language model, then that: layers, width, heads.
SIZES = {
    "small": (
        QuerySizes(vision_width=384, vision_layers=6, vision_heads=6, vision_mlp=1536, qformer_width=384,
                   qformer_layers=6, qformer_heads=6, qformer_mlp=1536, vocabulary=VOCABULARY),
        (8, 512, 8),
    ),
    "published": (QuerySizes(vocabulary=VOCABULARY), (32, 2560, 32)),
}  # fmt: skip
IMAGE = "<image>"
QUESTION = "which actions does the face show"


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a vocabulary as large as OPT's, so that whatever is written can be read and compared."""
    special = ["<pad>", "<unk>", "</s>", IMAGE]
    words = [*special, *QUESTION.split(), "yes", "no"]
    words += [f"w{number}" for number in range(VOCABULARY - len(words))]
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", unk_token="<unk>", eos_token="</s>", bos_token="</s>"
    )


def built(options: argparse.Namespace) -> tuple[QueryCaptioner, Any, PromptText]:
    """Return a captioner with random weights, its transformers model, and its prompts."""
    sizes, (layers, width, heads) = SIZES[options.size]
    words = tokenizer()
    language = AutoConfig.for_model(
        "opt", vocab_size=VOCABULARY, hidden_size=width, word_embed_proj_dim=width, num_hidden_layers=layers,
        num_attention_heads=heads, ffn_dim=4 * width, max_position_embeddings=2048, pad_token_id=0, eos_token_id=2,
        bos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_default_dtype(DTYPES[options.precision])
    try:
        with torch.device(options.device):
            model: Any = build_model(ARCHITECTURES[options.system], sizes, language)  # type: ignore[arg-type]
    finally:
        torch.set_default_dtype(torch.float32)
    model.config.image_token_id = words.get_vocab()[IMAGE]
    prompt = QUESTION if options.system == "exp-vqa" else ""
    text = TextCard(
        end_token="</s>", description_prompt=prompt, max_new_tokens=options.tokens, min_new_tokens=options.tokens,
        num_beams=options.beams,
    )  # fmt: skip
    card = CaptionCard(
        name="random", architecture=ARCHITECTURES[options.system], pixels=clip_pixels(sizes.image),
        crop=face_crop(sizes.image), text=text, answers=options.system == "exp-vqa", licence="none: random numbers",
    )  # fmt: skip
    prompts = PromptText(text, words, words)
    captioner = QueryCaptioner(
        model, card, prompts, device=options.device, precision=options.precision, batch=options.batch
    )
    captioner._search.disable_compile = not options.compile
    return captioner, model, prompts


def one_at_a_time(captioner: QueryCaptioner, model: Any, prompts: PromptText, options: argparse.Namespace) -> Any:
    """Return a function that writes ids (pictures, tokens) with the model's own ``generate``, picture by picture."""
    question = captioner.card.text.description_prompt
    seen = [model.config.image_token_id] * model.config.num_query_tokens
    ids = torch.tensor([seen + prompts.prompt_ids(question)], device=options.device)
    given: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if options.system == "exp-vqa":
        asked, mask = prompts.question_ids([question])
        given |= {"qformer_input_ids": asked.to(options.device), "qformer_attention_mask": mask.to(options.device)}
    kind = DTYPES[options.precision]
    search = {
        "do_sample": False, "num_beams": options.beams, "max_new_tokens": options.tokens,
        "min_new_tokens": options.tokens, "eos_token_id": prompts.end_id, "pad_token_id": prompts.pad_id,
        "suppress_tokens": [prompts.pad_id],
    }  # fmt: skip

    @torch.inference_mode()
    def write(clips: list[np.ndarray[Any, Any]]) -> list[list[int]]:
        found = []
        for clip in clips:
            pixels = prepare_pixels(torch.from_numpy(clip).to(options.device), captioner.card.pixels).to(kind)
            found.append(model.generate(pixel_values=pixels, **given, **search)[0].tolist()[-options.tokens :])
        return found

    return write


Sides = dict[str, Callable[[], Any]]


def measure(sides: Sides, rounds: int, device: str) -> dict[str, list[float]]:
    """Run the sides in turns and return the seconds of each round."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            began = time.perf_counter()
            side()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - began)
    return seconds


def asked() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", choices=sorted(ARCHITECTURES), default="exp-blip")
    parser.add_argument("--captioner", help="a trained captioner by name or path, instead of random weights")
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=40, help="length of each text (random weights)")
    parser.add_argument("--beams", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=sorted(DTYPES), default="fp32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile", action="store_true", help="compile the decoding step (GPU)")
    return parser.parse_args()


def trained_sides(options: argparse.Namespace, random: np.random.Generator) -> tuple[Sides, bool, str]:
    """A trained captioner alone and in batches, whether both write the same, and what it is."""
    trained: Captioner = load_captioner(
        options.captioner, device=options.device, precision=options.precision, batch=options.batch
    )  # fmt: skip
    side = trained.info.crop.size
    clips = [random.integers(0, 256, (2, side, side, 3), dtype=np.uint8) for _ in range(options.batch)]
    sides = {
        "one clip at a time": lambda: [trained.caption([clip]) for clip in clips],
        f"batches of {options.batch}": lambda: trained.caption(clips),
    }
    same = [one[0] for one in sides["one clip at a time"]()] == trained.caption(clips)
    what = f"{trained.info.name}, clips of 2 keyframes"
    return sides, same, what


def random_sides(options: argparse.Namespace, random: np.random.Generator) -> tuple[Sides, bool, str]:
    """Random weights by transformers' own generate and by ours, whether both write the same, and what they are."""
    captioner, model, prompts = built(options)
    side = captioner.info.crop.size
    clips = [random.integers(0, 256, (1, side, side, 3), dtype=np.uint8) for _ in range(options.batch)]
    alone = one_at_a_time(captioner, model, prompts, options)
    sides = {
        "generate, one picture at a time": lambda: alone(clips),
        f"streamfer, batches of {options.batch}": lambda: captioner.caption(clips),
    }
    texts = [prompts.read(row) for row in alone(clips)]
    same = texts == captioner.caption(clips)
    count = sum(weight.numel() for weight in model.parameters()) / 1e6
    what = f"{options.system}, {count:.0f} M random weights, {options.tokens} tokens, {options.beams} beam(s)"
    return sides, same, what


def main() -> None:
    """Measure and print one table."""
    options = asked()
    torch.set_num_threads(options.threads)
    sides, same, what = (trained_sides if options.captioner else random_sides)(options, np.random.default_rng(0))
    if not same and options.precision == "fp32":
        sys.exit("the two sides write different texts: nothing was measured")
    seconds = measure(sides, options.rounds, options.device)
    place = torch.cuda.get_device_name() if options.device.startswith("cuda") else platform.processor() or "CPU"
    print(
        f"{datetime.date.today()}  {place}, {options.threads} threads, torch {torch.__version__}, {options.precision}"
    )
    print(f"{what}; same texts: {'yes' if same else 'no'}")
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        spread = max(seconds[name]) / min(seconds[name])
        print(f"  {name:34} {options.batch / median:8.2f} captions/s  {1e3 * median / options.batch:8.1f} ms each"
              f"  (slowest round / fastest {spread:.2f})")  # fmt: skip
    first, second = medians.values()
    print(f"  ratio {first / second:.2f}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
