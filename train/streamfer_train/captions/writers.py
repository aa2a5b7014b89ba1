"""Language models that write captions: an OpenAI-compatible endpoint, or a transformers model in a local folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from streamfer.captions.chat import ChatClient, ChatError, Reply, endpoint_url, key_for
from streamfer.captions.protocol import Message
from streamfer.captions.transformers_models import TextModel
from streamfer.errors import ConfigError

_MAX_TOKENS = 300
_TEMPERATURE = 0.7


class Writer(Protocol):
    """Anything that answers messages with a text. ``name`` identifies model and settings, for the cache."""

    @property
    def name(self) -> str: ...

    def write(self, messages: Sequence[Message]) -> Reply:
        """Return a text, from any thread.

        Raises:
            ChatError: there is none.
        """


def named_writer(url: str | None, model: str, **more: Any) -> Endpoint | LocalModel:
    """Return the language model that is named, an endpoint's once it has answered that it is there.

    Args:
        model: name of the endpoint's model, or a folder of transformers where there is no ``url``.
        more: as :class:`Endpoint` takes it.

    Raises:
        ConfigError: the endpoint refuses or lacks the model, or the folder holds none.
    """
    if not url:
        return LocalModel(Path(model))
    writer = Endpoint(url, model, **more)
    writer.check()
    return writer


class Endpoint:
    """A model behind an OpenAI-compatible endpoint; the key comes from the environment.

    Raises:
        ConfigError: the address is no HTTP address, or carries credentials.
    """

    def __init__(self, url: str, model: str, **more: Any) -> None:
        """Take the address and the name of the model there, and what else :class:`ChatClient` takes (``timeout``)."""
        url = endpoint_url(url)
        self._client = ChatClient(url, model, key=key_for(url), **more)
        # Another address of the same model gives the same answers.
        self.name = f"{model} temperature={_TEMPERATURE:g} max_tokens={_MAX_TOKENS}"

    def check(self) -> None:
        """Make sure, before anything is paid for, that the endpoint answers and has the model.

        Raises:
            ConfigError: it does not, or has others, which are listed.
        """
        try:
            self._client.find()
        except ChatError as error:
            raise ConfigError(f"{error}; name a server that answers, or no model: the grammar writes") from error

    def write(self, messages: Sequence[Message]) -> Reply:
        """Ask the endpoint.

        Raises:
            ChatError: it refused, took too long, or answered something else than a text.
        """
        return self._client.write(messages, max_tokens=_MAX_TOKENS, temperature=_TEMPERATURE)


class LocalModel:
    """A causal language model in a transformers folder; decoding is greedy, one call at a time.

    Raises:
        ConfigError: nothing is there.
        CheckpointError: the folder holds no such model.
    """

    def __init__(self, folder: Path, *, max_tokens: int = _MAX_TOKENS) -> None:
        self._model = TextModel(folder, max_tokens=max_tokens, device="cpu")
        self.name = f"local:{folder.name} max_tokens={max_tokens}"

    def write(self, messages: Sequence[Message]) -> Reply:
        """Continue the conversation; a ChatError where the prompt does not fit, or nothing was written."""
        try:
            reply = self._model.reply(messages)
        except ConfigError as error:
            raise ChatError("nonsense", str(error)) from error
        if not reply.text:
            raise ChatError("nonsense", "the model wrote nothing")
        return reply
