"""A local language model without eyes: a transformers folder or a GGUF file. Nothing is downloaded."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from streamfer.captions.chat import Reply
from streamfer.captions.folder import quiet_transformers
from streamfer.captions.protocol import CaptionerInfo, Message, first_line
from streamfer.errors import CheckpointError, ConfigError
from streamfer.extras import needs

_NEW_TOKENS = 200
_GGUF = ".gguf"


def is_text_model(path: Path) -> bool:
    """Tell whether a folder's configuration names a model of text alone, or a file is a GGUF one."""
    if path.suffix == _GGUF:
        return path.is_file()
    if not (path / "config.json").is_file():
        return False
    with needs("captions", f"captioner {str(path)!r}"):
        from transformers import AutoConfig
        from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as SEEING

    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError):
        return False
    return config.model_type not in SEEING


class TextModel:
    """A causal language model; decoding is greedy, one conversation at a time."""

    def __init__(
        self, path: Path, *, device: str = "cpu", precision: str = "fp32", max_tokens: int = _NEW_TOKENS
    ) -> None:
        """Load tokenizer and model.

        Raises:
            ConfigError: nothing is there.
            CheckpointError: it is no such model, or needs a package that is not installed.
        """
        with needs("captions", f"captioner {str(path)!r}"):
            from transformers import AutoModelForCausalLM, AutoTokenizer

        gguf = path.suffix == _GGUF
        if not (path.is_file() if gguf else (path / "config.json").is_file()):
            raise ConfigError(f"{path}: no transformers model there (config.json is absent); name its folder")
        source: dict[str, Any] = {"local_files_only": True, **({"gguf_file": path.name} if gguf else {})}
        folder = path.parent if gguf else path
        numbers = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[precision]
        try:
            with quiet_transformers():
                self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, **source)
                model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=numbers, **source)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            hint = "; reading GGUF files needs: pip install gguf" if gguf and isinstance(error, ImportError) else ""
            raise CheckpointError(
                f"{path}: cannot be loaded as a causal language model ({first_line(error)}){hint}"
            ) from error
        self.model = model.requires_grad_(False).eval().to(device)
        self._lock = threading.Lock()
        self.info = CaptionerInfo(
            path.stem if gguf else path.name,
            hashlib.sha256(f"{path.name} {model.config.to_json_string(use_diff=False)}".encode()).hexdigest(),
            max_new_tokens=max_tokens,
            device=device,
            precision=precision,
        )

    def complete(self, conversations: Sequence[list[Message]]) -> list[str]:
        """Return what the model says next in each conversation.

        Raises:
            ConfigError: a prompt does not fit.
        """
        return [self.reply(messages).text for messages in conversations]

    def reply(self, messages: Sequence[Message]) -> Reply:
        """Return the next turn of one conversation.

        Raises:
            ConfigError: the prompt does not fit.
        """
        import torch

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
