"""Who writes captions: measured words, or a model whose every text is checked against what was measured."""

from __future__ import annotations

import hashlib
import logging
import threading
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from streamfer.captions.checks import faults, off_topic, shape_faults
from streamfer.captions.measured import LANGUAGES, describe
from streamfer.captions.prompts import again, describe_messages, unfounded
from streamfer.captions.protocol import Caption, CaptionerInfo, CaptionError, CaptionRequest, Writer, first_line
from streamfer.config import CaptionsConfig
from streamfer.errors import ConfigError, StreamferError

#: Name of the built-in writer, and what else it is called by.
MEASURED = "measured"
BUILT_IN = ("auto", "built-in", MEASURED)
#: Begins the name of a model behind an endpoint.
ENDPOINT = "openai:"
#: After so many texts of which hardly one could stand, a captioner is named as one that writes nothing usable.
_JUDGED_AFTER, _USABLE = 20, 0.1
_GRAMMAR = ("measured.py", "measurements.py", *(
    f"{name}.{kind}" for name in ("english", "vocabulary") for kind in ("py", "toml")
))  # fmt: skip

#: A text that was refused, and what was wrong with it.
Refused = tuple[str, tuple[str, ...]]

log = logging.getLogger(__name__)


class MeasuredWriter(Writer):
    """The built-in captioner: a grammar over the measurements, without a model file."""

    def __init__(self, language: str = "en") -> None:
        """Choose a language, or raise a ConfigError where no grammar of it is here."""
        if language not in LANGUAGES:
            raise ConfigError(
                f"captions.language: measured words speak {', '.join(LANGUAGES)}, not {language!r}; "
                "a language model speaks others: --captioner openai:MODEL"
            )
        self._language = language
        grammar = b"".join((Path(__file__).parent / name).read_bytes() for name in _GRAMMAR)
        self._info = CaptionerInfo(MEASURED, hashlib.sha256(grammar).hexdigest(), "Apache-2.0; no model")

    def write(self, requests: Sequence[CaptionRequest]) -> list[Caption | CaptionError]:
        return [Caption(describe(request.measured, request.seed, self._language)) for request in requests]


class CheckedWriter(Writer):
    """A model as a writer: every text passes the checks, or measured words stand in its place.

    ``written`` counts texts, ``replaced`` those that were replaced, by reason.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._judged = False
        self.written = 0
        self.replaced: Counter[str] = Counter()

    @property
    def asks_again(self) -> bool:
        """Whether a refused text is worth asking for once more, with what was wrong with it."""
        return True

    @abstractmethod
    def draft(
        self, requests: Sequence[CaptionRequest], refused: Sequence[Refused] | None = None
    ) -> list[Caption | CaptionError]:
        """Write about clips, unchecked; ``refused`` holds each one's last text."""

    def write(self, requests: Sequence[CaptionRequest]) -> list[Caption | CaptionError]:
        """Describe clips; what the checks refuse is asked for once more where that helps, then replaced."""
        try:
            drafts = self.draft(requests)
            wrong = [_wrong(draft, request) for draft, request in zip(drafts, requests, strict=True)]
            failed = [place for place, found in enumerate(wrong) if found]
            if failed and self.asks_again:
                refused = [(getattr(drafts[place], "text", ""), wrong[place]) for place in failed]
                second = self.draft([requests[place] for place in failed], refused)
                for place, draft in zip(failed, second, strict=True):
                    # Where nothing comes, the first fault is the one that counts.
                    if isinstance(draft, Caption):
                        drafts[place], wrong[place] = draft, _wrong(draft, requests[place])
        except CaptionError as error:
            return [error] * len(requests)
        except Exception as error:
            kind = "" if isinstance(error, StreamferError) else f"{type(error).__name__}: "
            return [CaptionError("captioner_failed", f"{kind}{first_line(error)}")] * len(requests)
        return [self._stand(*found) for found in zip(drafts, wrong, requests, strict=True)]

    def _stand(
        self, draft: Caption | CaptionError, wrong: tuple[str, ...], request: CaptionRequest
    ) -> Caption | CaptionError:
        if isinstance(draft, CaptionError):
            if not isinstance(draft, SpentError):
                return draft
            wrong = (str(draft),)
        with self._lock:
            self.written += 1
            if wrong:
                self.replaced[wrong[0]] += 1
            self._judge()
        if isinstance(draft, Caption) and not wrong:
            return draft
        return Caption(describe(request.measured, request.seed), replaced="; ".join(wrong))

    def _judge(self) -> None:
        """Say once, by name, that a model writes nothing usable; the lock is held."""
        count = self.replaced.total()
        if self._judged or self.written < _JUDGED_AFTER or 1 - count / self.written > _USABLE:
            return
        self._judged = True
        often, times = self.replaced.most_common(1)[0]
        log.warning(
            "captioner %s writes nothing usable: %d of %d texts were replaced by measured words (%dx: it %s)",
            self.info.name, count, self.written, times, often,
        )  # fmt: skip

    def close(self) -> None:
        """Let go of the model, and say what became of its texts."""
        if self.written:
            count = self.replaced.total()
            log.info("captions by %s: %d, of which %d replaced by measured words", self.info.name, self.written, count)


class ModelWriter(CheckedWriter):
    """A model on this machine, as a rule in a process of its own, which may still be loading.

    An image-text model (Exp-BLIP, Exp-VQA, any of transformers) describes keyframes: what was measured is not told, and
    a second try would give the same. A model of text alone puts the measurements into words.
    """

    def __init__(self, model: Any, settings: CaptionsConfig) -> None:
        super().__init__()
        self._model = model
        self._settings = settings

    @property
    def info(self) -> CaptionerInfo:
        info: CaptionerInfo = self._model.info
        return info

    @property
    def asks_again(self) -> bool:
        return self.info.crop is None

    def draft(
        self, requests: Sequence[CaptionRequest], refused: Sequence[Refused] | None = None
    ) -> list[Caption | CaptionError]:
        """Write about clips; one without pictures has an error where pictures are needed."""
        self._model.patience = self.patience
        if self.info.crop is None:
            talks = [describe_messages(request, self._settings) for request in requests]
            if refused is not None:
                talks = [again(talk, *wrong) for talk, wrong in zip(talks, refused, strict=True)]
            return [Caption(text) for text in self._model.complete(talks)]
        seen = [request.keyframes for request in requests if len(request.keyframes)]
        written = self._model.caption(seen) if seen else []
        if len(written) != len(seen):
            raise CaptionError("captioner_failed", f"{len(written)} captions for {len(seen)} clips")
        texts = iter(written)
        blind = CaptionError("no_picture", "the face was too small among the others to keep its pictures")
        return [Caption(next(texts)) if len(request.keyframes) else blind for request in requests]

    def close(self) -> None:
        super().close()
        self._model.close()


class SpentError(CaptionError):
    """A cap is reached: the model is not asked, and measured words stand in."""


def _wrong(draft: Caption | CaptionError, request: CaptionRequest) -> tuple[str, ...]:
    if isinstance(draft, CaptionError):
        return ()
    if not draft.text:
        return ("wrote nothing",)
    # What is written in another language has an English twin that can be read back.
    english = draft.text if draft.checked is None else draft.checked
    other = [] if draft.checked is None else shape_faults(draft.text, english=False)
    found = faults(english, request.measured, complete=False)
    return (*other, *found, *unfounded(english, request.measured), *off_topic(english))
