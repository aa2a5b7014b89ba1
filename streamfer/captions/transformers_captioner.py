"""Any image-text model of transformers in a captioner's place: Exp-BLIP's seam, somebody else's weights.

Nothing is known of such a model but what its own processor says: pixels, prompt format and end token are the
processor's and the model's. Code that a model's repository carries is never run.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from streamfer.captions.card import DESCRIBE_QUESTION, face_crop
from streamfer.captions.folder import quiet_transformers
from streamfer.captions.protocol import CaptionerInfo, Keyframes, check_clips, check_questions, first_line
from streamfer.captions.text import check_length, check_plain
from streamfer.errors import CheckpointError, ConfigError, UnknownModelError
from streamfer.extras import needs
from streamfer.models.precision import DTYPES, Precision

_NEW_TOKENS = 200
#: First tokens of these spellings are counted as yes and no.
_YES = ("yes", "Yes", " yes", " Yes")
_NO = ("no", "No", " no", " No")
_CROP_SIDE = 224


def load_stand_in(name_or_path: str, *, precision: Precision, **options: Any) -> TransformersCaptioner:
    """Load an image-text model with its processor: a folder, or a Hub's name where it is on this machine.

    Raises:
        UnknownModelError: not on this machine.
        CheckpointError: there, but no image-text model with safetensors and a processor.
    """
    from safetensors import SafetensorError

    with needs("captions", f"captioner {name_or_path!r}"):
        from transformers import AutoModelForImageTextToText, AutoProcessor

    processors: Any = AutoProcessor
    models: Any = AutoModelForImageTextToText
    source: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        with quiet_transformers():
            processor = processors.from_pretrained(name_or_path, **source)
            model = models.from_pretrained(name_or_path, dtype=DTYPES[precision], use_safetensors=True, **source)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        why = first_line(error)
        if not Path(name_or_path).is_dir():
            raise UnknownModelError(
                f"captioner {name_or_path!r} is not on this machine; download it first ({why})"
            ) from error
        raise CheckpointError(f"{name_or_path}: no image-text model of transformers can be loaded ({why})") from error
    return TransformersCaptioner(model, processor, name=name_or_path, precision=precision, **options)


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
        commit = getattr(model.config, "_commit_hash", None) or ""
        identity = f"{name} {commit} {model.config.to_json_string(use_diff=False)}"
        #: The digest is of name, revision and configuration, not of the weights.
        self.info = CaptionerInfo(
            name,
            hashlib.sha256(identity.encode()).hexdigest(),
            crop=face_crop(_CROP_SIDE),
            max_new_tokens=max_new_tokens or _NEW_TOKENS,
            device=str(torch.device(device)),
            precision=precision,
        )

    def _checked(self, questions: Sequence[str], clips: int) -> list[str]:
        asked = check_questions(questions, clips)
        for question in asked:
            check_plain(question, self._tokenizer)
            check_length(len(self._encode(question)), self.info.max_question_tokens, question)
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
        """Describe clips, or answer one question about each; see :meth:`Captioner.caption`."""
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
