"""Any model of transformers in a captioner's place: an image-text model, or one of text alone, a GGUF file too.

Nothing is known of such a model but what its own processor says: pixels, prompt format and end token are the
processor's and the model's. Code that a model's repository carries is never run, and nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from streamfer.captions.card import DESCRIBE_QUESTION, face_crop
from streamfer.captions.chat import Reply
from streamfer.captions.folder import reading
from streamfer.captions.protocol import CaptionerInfo, Keyframes, Message, check_clips, check_questions, first_line
from streamfer.captions.text import question_tokens
from streamfer.errors import CheckpointError, ConfigError, UnknownModelError
from streamfer.models.precision import DTYPES, Precision

_NEW_TOKENS = 200
#: First tokens of these spellings are counted as yes and no.
_YES = ("yes", "Yes", " yes", " Yes")
_NO = ("no", "No", " no", " No")
_CROP_SIDE = 224
_GGUF = ".gguf"


def is_text_model(path: Path) -> bool:
    """Tell whether a folder's configuration names a model of text alone, or a file is a GGUF one."""
    if path.suffix == _GGUF:
        return os.path.isfile(path)
    if not os.path.isfile(path / "config.json"):
        return False
    try:
        with reading(f"captioner {str(path)!r}", f"{path}: no configuration") as transformers:
            config = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
            seeing = transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    except CheckpointError:
        return False
    return type(config) not in seeing


def load_stand_in(name_or_path: str, *, precision: Precision, **options: Any) -> TransformersCaptioner:
    """Load an image-text model with its processor: a folder, or a Hub's name where it is on this machine.

    Raises:
        UnknownModelError: not on this machine.
        CheckpointError: there, but no image-text model with safetensors and a processor.
    """
    source: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    trouble = f"{name_or_path}: no image-text model of transformers can be loaded"
    try:
        with reading(f"captioner {name_or_path!r}", trouble) as transformers:
            processor = transformers.AutoProcessor.from_pretrained(name_or_path, **source)
            model = transformers.AutoModelForImageTextToText.from_pretrained(
                name_or_path, dtype=DTYPES[precision], use_safetensors=True, **source
            )
    except CheckpointError as error:
        if os.path.isdir(name_or_path):
            raise
        why = first_line(error.__cause__ or error)
        raise UnknownModelError(
            f"captioner {name_or_path!r} is not on this machine; download it first ({why})"
        ) from error
    return TransformersCaptioner(model, processor, name=name_or_path, precision=precision, **options)


def _digest(identity: str, model: Any) -> str:
    """Return the digest of a model by its name and configuration; its weights are not read for it."""
    return hashlib.sha256(f"{identity} {model.config.to_json_string(use_diff=False)}".encode()).hexdigest()


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
        num_beams: int | None = None,
        max_new_tokens: int | None = None,
    ) -> None:
        """Take over ``model``: it is moved to ``device``."""
        self._model = model.requires_grad_(False).eval().to(device)
        self._processor = processor
        self._tokenizer = getattr(processor, "tokenizer", processor)
        # Rows of a batch must end together for the text to begin where they end.
        self._tokenizer.padding_side = "left"
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._chats = bool(getattr(processor, "chat_template", None))
        self._batch = batch
        self._num_beams = num_beams or 1
        self.info = CaptionerInfo(
            name,
            _digest(f"{name} {getattr(model.config, '_commit_hash', None) or ''}", model),
            crop=face_crop(_CROP_SIDE),
            max_new_tokens=max_new_tokens or _NEW_TOKENS,
            device=str(torch.device(device)),
            precision=precision,
        )

    def _checked(self, questions: Sequence[str], clips: int) -> list[str]:
        asked = check_questions(questions, clips)
        for question in asked:
            question_tokens(question, self.info.max_question_tokens, self._tokenizer)
        return asked

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _prepared(self, clips: Sequence[Keyframes], questions: Sequence[str]) -> Any:
        from PIL import Image

        pictures = [[Image.fromarray(frame) for frame in clip] for clip in check_clips(clips)]
        if self._chats:
            chats = [
                [{"role": "user", "content": [*({"type": "image", "image": one} for one in frames),
                                              {"type": "text", "text": question}]}]
                for frames, question in zip(pictures, questions, strict=True)
            ]  # fmt: skip
            inputs = self._processor.apply_chat_template(
                chats,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"padding": True},
            )
        else:
            middle = [frames[len(frames) // 2] for frames in pictures]
            text = list(questions) if all(questions) else None
            inputs = self._processor(images=middle, text=text, padding=True, return_tensors="pt")
        return inputs.to(self._model.device, self._model.dtype)

    @torch.inference_mode()
    def caption(self, clips: Sequence[Keyframes], questions: Sequence[str] | None = None) -> list[str]:
        default = DESCRIBE_QUESTION if self._chats else ""
        asked = [default] * len(clips) if questions is None else self._checked(questions, len(clips))
        written: list[str] = []
        for start in range(0, len(clips), self._batch):
            window = slice(start, start + self._batch)
            inputs = self._prepared(clips[window], asked[window])
            ids_BN = self._model.generate(
                **inputs, do_sample=False, num_beams=self._num_beams, max_new_tokens=self.info.max_new_tokens
            )
            # Decoders repeat the prompt; encoder-decoders and embedding-fed decoders do not.
            prompt = inputs.get("input_ids")
            if prompt is not None and torch.equal(ids_BN[:, : prompt.shape[1]], prompt):
                ids_BN = ids_BN[:, prompt.shape[1] :]
            written.extend(self._read(row) for row in ids_BN.tolist())
        return written

    def _read(self, ids: Sequence[int]) -> str:
        ends = self._model.generation_config.eos_token_id
        stops = set(ends) if isinstance(ends, list) else {ends, self._tokenizer.eos_token_id}
        kept = list(itertools.takewhile(lambda number: number not in stops, ids))
        return str(self._tokenizer.decode(kept, skip_special_tokens=True)).strip()

    @torch.inference_mode()
    def answer_yes_no(self, clips: Sequence[Keyframes], questions: Sequence[str]) -> list[float]:
        """Return the probability that the answer begins with yes rather than no."""
        asked = self._checked(questions, len(clips))
        yes, no = ({ids[0] for word in words if (ids := self._encode(word))} for words in (_YES, _NO))
        both = yes & no | {self._tokenizer.unk_token_id}
        sides = [sorted(yes - both), sorted(no - both)]
        if not all(sides):
            raise ConfigError(f"model {self.info.name!r} has no tokens that tell yes from no; ask it in words")
        found: list[float] = []
        for start in range(0, len(clips), self._batch):
            window = slice(start, start + self._batch)
            scores = self._model.generate(
                **self._prepared(clips[window], asked[window]),
                do_sample=False,
                num_beams=1,
                max_new_tokens=1,
                output_logits=True,
                return_dict_in_generate=True,
            )
            logs_BV = scores.logits[0].float().log_softmax(dim=-1)
            sides_B2 = torch.stack([logs_BV[:, ids].logsumexp(dim=1) for ids in sides], dim=1)
            found.extend(sides_B2.softmax(dim=1)[:, 0].tolist())
        return found


class TextModel:
    """A causal language model; decoding is greedy, one conversation at a time."""

    def __init__(
        self, path: Path, *, device: str = "cpu", precision: Precision = "fp32", max_tokens: int = _NEW_TOKENS
    ) -> None:
        """Load tokenizer and model: ConfigError where nothing is there, CheckpointError where it is no such model."""
        gguf = path.suffix == _GGUF
        if not (path.is_file() if gguf else (path / "config.json").is_file()):
            raise ConfigError(f"{path}: no transformers model there (config.json is absent); name its folder")
        source: dict[str, Any] = {"local_files_only": True, **({"gguf_file": path.name} if gguf else {})}
        folder = path.parent if gguf else path
        hint = " (GGUF files need: pip install gguf)" if gguf else ""
        trouble = f"{path}: cannot be loaded as a causal language model{hint}"
        with reading(f"captioner {str(path)!r}", trouble) as transformers:
            self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder, **source)
            model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[precision], **source)
        self.model = model.requires_grad_(False).eval().to(device)
        self._lock = threading.Lock()
        self.info = CaptionerInfo(
            path.stem if gguf else path.name,
            _digest(path.name, model),
            max_new_tokens=max_tokens,
            device=device,
            precision=precision,
        )

    def complete(self, conversations: Sequence[list[Message]]) -> list[str]:
        return [self.reply(messages).text for messages in conversations]

    def reply(self, messages: Sequence[Message]) -> Reply:
        """Return the next turn of one conversation; a prompt that does not fit is a ConfigError."""
        with self._lock, torch.inference_mode():
            if self.tokenizer.chat_template:
                prompt = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            else:
                prompt = "\n\n".join(message["content"] for message in messages) + "\n\n"
            inputs = self.tokenizer(prompt, return_tensors="pt", return_token_type_ids=False).to(self.model.device)
            length = inputs["input_ids"].shape[1]
            room = getattr(self.model.config, "max_position_embeddings", None)
            if room is not None and length + self.info.max_new_tokens > room:
                raise ConfigError(f"the prompt of {length} tokens does not fit the {room} of {self.info.name}")
            pad = self.tokenizer.pad_token_id
            ids = self.model.generate(
                **inputs,
                max_new_tokens=self.info.max_new_tokens,
                do_sample=False,
                pad_token_id=self.tokenizer.eos_token_id if pad is None else pad,
            )[0, length:]
            text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return Reply(" ".join(text.split()), length, len(ids))
