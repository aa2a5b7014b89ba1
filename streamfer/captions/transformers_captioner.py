"""Any image-text model of transformers in a captioner's place: Exp-BLIP's seam, somebody else's weights.

Nothing is known of such a model but what its own processor says: pixels, prompt format and end token are the
processor's and the model's. Code that a model's repository carries is never run.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from streamfer.captions.card import DESCRIBE_QUESTION, face_crop
from streamfer.captions.folder import quiet_transformers
from streamfer.captions.protocol import Caption, CaptionerInfo, Keyframes, check_clips, check_questions
from streamfer.captions.text import check_plain
from streamfer.errors import CheckpointError, ConfigError, UnknownModelError
from streamfer.models.precision import DTYPES, Precision

log = logging.getLogger(__name__)

LICENCE = "as the model's authors state: see its model card"
_QUESTION_TOKENS = 512
_NEW_TOKENS = 200
#: First tokens of these spellings are counted as yes and no.
_YES = ("yes", "Yes", " yes", " Yes")
_NO = ("no", "No", " no", " No")
_CROP_SIDE = 224


def load_stand_in(
    name_or_path: str,
    *,
    device: str,
    precision: Precision,
    batch: int = 16,
    num_beams: int | None = None,
    max_new_tokens: int | None = None,
    allow_download: bool = False,
) -> TransformersCaptioner:
    """Load an image-text model with its processor.

    Args:
        name_or_path: a folder, or a name on the Hugging Face Hub.
        device: torch device.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        batch: most texts computed at once.
        num_beams: beams of the search; 1 where not given.
        max_new_tokens: longest text; 200 where not given.
        allow_download: fetch what is not on this machine.

    Raises:
        UnknownModelError: not on this machine, and downloads are not allowed; or nowhere.
        CheckpointError: there, but no image-text model with safetensors and a processor.
        ConfigError: fewer than one beam or token.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processors: Any = AutoProcessor
    models: Any = AutoModelForImageTextToText
    for setting, value in (("num_beams", num_beams), ("max_new_tokens", max_new_tokens)):
        if value is not None and value < 1:
            raise ConfigError(f"{setting} is {value}; expected at least 1")
    source: dict[str, Any] = {"local_files_only": not allow_download, "trust_remote_code": False}
    try:
        with quiet_transformers():
            processor = processors.from_pretrained(name_or_path, **source)
            model = models.from_pretrained(
                name_or_path,
                dtype=DTYPES[precision],
                use_safetensors=True,
                **source,
            )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if not Path(name_or_path).is_dir():
            way = "check the name" if allow_download else "download it first, or allow downloads"
            raise UnknownModelError(f"captioner {name_or_path!r} is not on this machine; {way} ({reason})") from error
        raise CheckpointError(
            f"{name_or_path}: no image-text model of transformers that can be loaded ({reason})"
        ) from error
    return TransformersCaptioner(
        model,
        processor,
        name=name_or_path,
        device=device,
        precision=precision,
        batch=batch,
        num_beams=num_beams or 1,
        max_new_tokens=max_new_tokens or _NEW_TOKENS,
    )


class TransformersCaptioner:
    """An image-text model behind :class:`streamfer.captions.protocol.Captioner`.

    A model with a chat template gets all keyframes of a clip; one without gets the middle one.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        name: str,
        device: str = "cpu",
        precision: str = "fp32",
        batch: int = 16,
        num_beams: int = 1,
        max_new_tokens: int = _NEW_TOKENS,
    ) -> None:
        """Take over ``model``: it is moved to ``device``."""
        self._model = model.requires_grad_(False).eval().to(device)
        self._processor = processor
        self._tokenizer = getattr(processor, "tokenizer", processor)
        # Rows of a batch must end together for the text to begin where they end.
        self._tokenizer.padding_side = "left"
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._device = torch.device(device)
        self._chats = bool(getattr(processor, "chat_template", None))
        self._batch = batch
        self._num_beams = num_beams
        commit = getattr(model.config, "_commit_hash", None) or ""
        identity = f"{name} {commit} {model.config.to_json_string(use_diff=False)}"
        self._info = CaptionerInfo(
            name=name,
            digest=hashlib.sha256(identity.encode()).hexdigest(),
            licence=LICENCE,
            crop=face_crop(_CROP_SIDE),
            answers=True,
            max_new_tokens=max_new_tokens,
            max_question_tokens=_QUESTION_TOKENS,
            device=str(self._device),
            precision=precision,
        )

    @property
    def info(self) -> CaptionerInfo:
        """Identity of the model; the digest is of its name, revision and configuration, not of its weights."""
        return self._info

    def _check(self, questions: Sequence[str]) -> None:
        for question in questions:
            check_plain(question, self._tokenizer)
            length = len(self._tokenizer(question, add_special_tokens=False)["input_ids"])
            if length > _QUESTION_TOKENS:
                raise ConfigError(
                    f"the question has {length} tokens and {_QUESTION_TOKENS} are taken at most; "
                    f"shorten it: {question[:40]!r}..."
                )

    def _inputs(self, clips: Sequence[Keyframes], questions: Sequence[str]) -> Any:
        from PIL import Image

        pictures = [[Image.fromarray(frame) for frame in clip] for clip in clips]
        if not self._chats:
            middle = [frames[len(frames) // 2] for frames in pictures]
            asked = [question or None for question in questions]
            text = list(questions) if all(asked) else None
            return self._processor(images=middle, text=text, padding=True, return_tensors="pt")
        chats = [
            [{"role": "user", "content": [*({"type": "image", "image": one} for one in frames), _words(question)]}]
            for frames, question in zip(pictures, questions, strict=True)
        ]
        return self._processor.apply_chat_template(
            chats,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )

    def _prepared(self, clips: Sequence[Keyframes], questions: Sequence[str]) -> Any:
        return self._inputs(check_clips(clips), questions).to(self._device, self._model.dtype)

    @torch.inference_mode()
    def caption(self, clips: Sequence[Keyframes], questions: Sequence[str] | None = None) -> list[Caption]:
        """Describe clips, or answer one question about each; see :meth:`Captioner.caption`."""
        default = DESCRIBE_QUESTION if self._chats else ""
        asked = check_questions(questions, len(clips)) if questions is not None else [default] * len(clips)
        self._check(asked)
        captions: list[Caption] = []
        for start in range(0, len(clips), self._batch):
            began = time.perf_counter()
            window = slice(start, start + self._batch)
            inputs = self._prepared(clips[window], asked[window])
            ids_BN = self._model.generate(
                **inputs, do_sample=False, num_beams=self._num_beams, max_new_tokens=self._info.max_new_tokens
            )
            new_BN = self._new_tokens(ids_BN, inputs)
            share = (time.perf_counter() - began) / len(new_BN)
            captions.extend(self._read(row, share) for row in new_BN.tolist())
        return captions

    def _new_tokens(self, ids_BN: torch.Tensor, inputs: Any) -> torch.Tensor:
        """Drop the prompt, which decoders repeat; encoder-decoders and embedding-fed decoders do not."""
        prompt = inputs.get("input_ids")
        if prompt is not None and ids_BN.shape[1] >= prompt.shape[1]:
            head = ids_BN[:, : prompt.shape[1]]
            if bool((head == prompt).all()):
                return ids_BN[:, prompt.shape[1] :]
        return ids_BN

    def _read(self, ids: Sequence[int], seconds: float) -> Caption:
        ends = self._model.generation_config.eos_token_id
        stops = set(ends) if isinstance(ends, list) else {ends, self._tokenizer.eos_token_id}
        cut = next((index for index, number in enumerate(ids) if number in stops), None)
        text = self._tokenizer.decode(list(ids[:cut]), skip_special_tokens=True).strip()
        return Caption(text, len(ids) if cut is None else cut, seconds, complete=cut is not None)

    @torch.inference_mode()
    def answer_yes_no(self, clips: Sequence[Keyframes], questions: Sequence[str]) -> list[float]:
        """Return the probability that the answer begins with yes rather than no."""
        asked = check_questions(questions, len(clips))
        self._check(asked)
        yes, no = self._first_ids(_YES), self._first_ids(_NO)
        yes, no = yes - no, no - yes
        if not yes or not no:
            raise ConfigError(f"model {self._info.name!r} has no tokens that tell yes from no; ask it in words")
        found: list[float] = []
        for start in range(0, len(clips), self._batch):
            window = slice(start, start + self._batch)
            inputs = self._prepared(clips[window], asked[window])
            scores = self._model.generate(
                **inputs,
                do_sample=False,
                num_beams=1,
                max_new_tokens=1,
                output_logits=True,
                return_dict_in_generate=True,
            )
            logs_BV = scores.logits[0].float().log_softmax(dim=-1)
            sides_B2 = torch.stack([logs_BV[:, sorted(ids)].logsumexp(dim=1) for ids in (yes, no)], dim=1)
            found.extend(sides_B2.softmax(dim=1)[:, 0].tolist())
        return found

    def _first_ids(self, words: Sequence[str]) -> set[int]:
        encoded = [self._tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
        unknown = self._tokenizer.unk_token_id
        return {ids[0] for ids in encoded if ids and ids[0] != unknown}


def _words(question: str) -> dict[str, str]:
    return {"type": "text", "text": question}
