"""Language models that write captions: an OpenAI-compatible endpoint, or a transformers model in a local folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from streamfer.captions.chat import ChatClient, ChatError, Reply, endpoint_url, key_for
from streamfer.captions.protocol import Message
from streamfer.captions.transformers_models import TextModel
from streamfer.errors import ConfigError

_MAX_TOKENS = 300
_TEMPERATURE = 0.7


@dataclass(frozen=True, slots=True)
class Writer:
    """A language model; ``write`` answers messages from any thread, or says by a ChatError why it does not."""

    name: str  #: identifies model and settings, for the cache
    write: Callable[[Sequence[Message]], Reply]


def named_writer(url: str | None, model: str, **more: Any) -> Writer:
    """Return the language model that is named, an endpoint's once it has answered that it is there.

    Args:
        model: name of the endpoint's model, or a folder of transformers where there is no ``url``.
        more: as :class:`~streamfer.captions.chat.ChatClient` takes it; the key comes from the environment.

    Raises:
        ConfigError: the endpoint's address cannot be used, it refuses or lacks the model (those that it has are
            listed), or the folder holds none.
        CheckpointError: what the folder holds is no such model.
    """
    if not url:
        return local_model(Path(model))
    url = endpoint_url(url)
    client = ChatClient(url, model, key=key_for(url), **more)
    writer = endpoint(client)
    try:
        client.find()
    except ChatError as error:
        raise ConfigError(f"{error}; name a server that answers, or no model: the grammar writes") from error
    return writer


def endpoint(client: ChatClient) -> Writer:
    """Return a model behind an endpoint; another address of the same model gives the same answers."""
    name = f"{client.model} temperature={_TEMPERATURE:g} max_tokens={_MAX_TOKENS}"
    return Writer(name, partial(client.write, max_tokens=_MAX_TOKENS, temperature=_TEMPERATURE))


def local_model(folder: Path, *, max_tokens: int = _MAX_TOKENS) -> Writer:
    """Return the causal language model of a transformers folder; decoding is greedy, one call at a time.

    Raises:
        ConfigError: nothing is there.
        CheckpointError: the folder holds no such model.
    """
    model = TextModel(folder, max_tokens=max_tokens, device="cpu")

    def write(messages: Sequence[Message]) -> Reply:
        try:
            reply = model.reply(messages)
        except ConfigError as error:
            raise ChatError("nonsense", str(error)) from error
        if not reply.text:
            raise ChatError("nonsense", "the model wrote nothing")
        return reply

    return Writer(f"local:{folder.name} max_tokens={max_tokens}", write)
