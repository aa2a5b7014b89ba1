"""Captions by a language model, each checked, cached and counted; the grammar speaks where the model fails."""

from __future__ import annotations

import logging
import re
import threading
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from streamfer.captions.chat import ChatError, Reply, Spending
from streamfer.captions.checks import faults, shape_faults
from streamfer.captions.prompts import again
from streamfer.captions.protocol import Message
from streamfer.captions.reading import read
from streamfer.captions.vocabulary import EMOTION_WORDS, canonical_emotion
from streamfer_train.captions.grammar import NEUTRAL_CAPTION, action_caption, describe
from streamfer_train.captions.labels import FaceLabels
from streamfer_train.captions.questions import Question, region_units
from streamfer_train.captions.writers import (
    ReplyCache,
    Writer,
    content_key,
    emotion_statement,
    fuse_messages,
    reword_messages,
    rewrite_messages,
)

log = logging.getLogger(__name__)

#: The rule's sentence over emotions, and the variants of the released captions.
_LISTED = re.compile(r"(?:the|this) (?:face|person|people|expression) (?:shows?|is|looks?) (.+?)\.?")
_AND = re.compile(r",? and |, ")
_WORD = re.compile(r"[a-z-]+(?: [a-z-]+)?")
_KNOWN = {word for words in EMOTION_WORDS.values() for word in words}
_RESTS = re.compile(
    r"\b(?:rests?|resting|relaxed|neutral|calm|still|quiet|natural(?:ly)?|smooth|no \w+ (?:action|movement)s?)\b",
    re.IGNORECASE,
)
#: Returns what is wrong with a text.
_Check = Callable[[str], tuple[str, ...]]
_Text = Callable[[], str]
UNREAD = "a half could not be read and both stand as they are"


@dataclass(frozen=True, slots=True)
class Policy:
    """How a model is used."""

    tries: int = 2  #: texts asked for one caption before the grammar speaks
    variants: int = 1  #: different texts asked for faces with the same labels
    concurrency: int = 4  #: questions under way at a time
    give_up_after: int = 8  #: faults of the writer in a row after which it is not asked again
    price: tuple[float, float] = (0.0, 0.0)  #: of a million tokens of prompt and answer
    budget: float | None = None  #: the asking ends when that much is spent


@dataclass(frozen=True, slots=True)
class Written:
    """A caption, who wrote it, and, where the grammar had to, why."""

    text: str
    origin: Literal["model", "cache", "grammar"]
    reason: str = ""


@dataclass(slots=True)
class Tally(Spending):
    """What a run cost and where its captions came from."""

    captions: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    refused_texts: int = 0
    uncounted_calls: int = 0

    def summary(self, price: tuple[float, float]) -> str:
        """Say it in one line, at prices for a million tokens of prompt and answer."""
        total = sum(self.captions.values())
        written = ", ".join(f"{self.captions[name]} by the {name}" for name in ("model", "cache", "grammar"))
        why = "; ".join(f"{reason}: {count}" for reason, count in self.reasons.most_common())
        unknown = f" ({self.uncounted_calls} calls did not say theirs)" if self.uncounted_calls else ""
        return (
            f"{total} captions: {written}{f' ({why})' if why else ''}; {self.refused_texts} texts refused; "
            f"{self.calls} calls, {self.prompt_tokens} + {self.answer_tokens} tokens{unknown}, "
            f"cost {self.cost(price):.4f}"
        )


class _Stop(Exception):
    """The writer is not to be asked any more; the reason is the message."""


class Rewriter:
    """Writes captions with a writer, a cache, and the grammar behind them; its :attr:`tally` says what became of it.

    One rewriter may be used from one thread; it asks the writer from ``policy.concurrency`` threads of its own.
    """

    def __init__(self, writer: Writer, cache: ReplyCache, policy: Policy | None = None) -> None:
        self.writer, self.cache, self.policy = writer, cache, policy or Policy()
        self.tally = Tally()
        self._lock = threading.Lock()
        self._asking: dict[str, threading.Lock] = {}
        self._faults_in_a_row = 0
        self._stopped = ""

    def rewrite(self, faces: Iterable[FaceLabels], seed: int = 0) -> Iterator[Written]:
        """Yield one text over the action units of each face, in order, without emotions.

        A face at rest gets the fixed neutral text; a face that nobody coded gets the grammar's word on its emotion.
        """
        return self._all(partial(self._rewrite, labels, f"{seed}/{n}") for n, labels in enumerate(faces))

    def fuse(self, faces: Iterable[FaceLabels], seed: int = 0) -> Iterator[Written]:
        """Yield one text a face that joins actions and emotions and says how the one follows from the other."""
        return self._all(partial(self._fuse, labels, f"{seed}/{n}") for n, labels in enumerate(faces))

    def ask(self, asked: Iterable[tuple[FaceLabels, Question]], seed: int = 0) -> Iterator[tuple[Question, Written]]:
        """Yield every question, put into other words, with its answer: the face's and a region's written by the model.

        A question has to mean what it meant: the same region, units and emotions, and no others.
        """
        pairs = list(asked)
        questions = self._all(partial(self._reword, one, f"{seed}/{n}") for n, (_, one) in enumerate(pairs))
        answers = self._all(partial(self._answer, *pair, f"{seed}/{n}") for n, pair in enumerate(pairs))
        for (_, one), question, answer in zip(pairs, list(questions), answers, strict=True):
            yield replace(one, question=question.text), answer

    def fuse_texts(self, pairs: Iterable[tuple[str, str]], seed: int = 0) -> Iterator[Written]:
        """Yield one text for each pair of an action caption and an emotion caption, as captioners wrote them.

        What the pair mentions is what the result has to mention.
        """
        return self._all(partial(self._fuse_pair, *pair, f"{seed}/{n}") for n, pair in enumerate(pairs))

    def _all(self, tasks: Iterable[Callable[[], Written]]) -> Iterator[Written]:
        """Run tasks in threads, a bounded number ahead of what is taken, and yield in order."""
        with ThreadPoolExecutor(self.policy.concurrency, thread_name_prefix="captions") as pool:
            ahead: deque[Future[Written]] = deque()
            try:
                for task in tasks:
                    ahead.append(pool.submit(task))
                    if len(ahead) >= 4 * self.policy.concurrency:
                        yield self._counted(ahead.popleft().result())
                while ahead:
                    yield self._counted(ahead.popleft().result())
            finally:
                for future in ahead:
                    future.cancel()

    def _counted(self, written: Written) -> Written:
        self.tally.captions[written.origin] += 1
        if written.reason:
            self.tally.reasons[written.reason] += 1
        return written

    def _rewrite(self, labels: FaceLabels, seed: str) -> Written:
        actions = replace(labels, emotions=())
        if not actions.action_units:
            text = NEUTRAL_CAPTION if actions.action_units is not None else describe(labels, seed)
            return Written(text, "grammar")
        return self._write(rewrite_messages(actions), actions, seed, emotion_allowed=False)

    def _fuse(self, labels: FaceLabels, seed: str) -> Written:
        if labels.action_units is None:
            return Written(describe(labels, seed), "grammar")
        action = action_caption(labels, "The person") or NEUTRAL_CAPTION
        return self._write(fuse_messages(action, emotion_statement(labels)), labels, seed, emotion_allowed=True)

    def _answer(self, labels: FaceLabels, asked: Question, seed: str) -> Written:
        if asked.kind == "global":
            return self._fuse(labels, seed) if labels.emotions else self._rewrite(labels, seed)
        present = (labels.action_units or frozenset()) & region_units(asked.region) if asked.region else frozenset()
        return self._rewrite(FaceLabels(present), seed) if present else Written(asked.answer, "grammar")

    def _reword(self, asked: Question, seed: str) -> Written:
        meant = read(asked.question)

        def wrong(text: str) -> tuple[str, ...]:
            said = read(text)
            found = [*shape_faults(text)]
            if not text.rstrip().endswith(("?", ".")) or len(text.split()) > 30:
                found.append("is no single short question")
            if asked.region is not None and asked.region not in text.lower():
                found.append(f"does not name the region {asked.region}")
            if (said.units, set(said.emotions)) != (meant.units, set(meant.emotions)):
                found.append("asks about something else")
            return tuple(found)

        return self._checked(reword_messages(asked.question), seed, wrong, lambda: asked.question)

    def _fuse_pair(self, action: str, emotion: str, seed: str) -> Written:
        labels = labels_of_texts(action, emotion)
        if labels is None:  # what cannot be read cannot be checked either
            return Written(f"{action} {emotion}", "grammar", UNREAD)
        return self._write(fuse_messages(action, emotion), labels, seed, emotion_allowed=True)

    def _write(self, messages: list[Message], labels: FaceLabels, seed: str, *, emotion_allowed: bool) -> Written:
        wrong = partial(faults, labels=labels, emotion_allowed=emotion_allowed)
        return self._checked(messages, seed, wrong, partial(describe, labels, seed))

    def _checked(self, messages: list[Message], seed: str, wrong_with: _Check, otherwise: _Text) -> Written:
        reason = ""
        first = zlib.crc32(seed.encode()) % self.policy.variants * self.policy.tries
        try:
            for number in range(first, first + self.policy.tries):
                reply, origin = self._reply(messages, number)
                wrong = wrong_with(reply.text)
                if not wrong:
                    return Written(reply.text, origin)
                with self._lock:
                    self.tally.refused_texts += 1
                log.debug("caption.refused", extra={"text": reply.text, "faults": wrong})
                messages, reason = again(messages, reply.text, wrong), "every text failed its checks"
        except ChatError as fault:
            reason = fault.kind
            self._note_fault(fault)
        except _Stop as stop:
            reason = str(stop)
        return Written(otherwise(), "grammar", reason)

    def _reply(self, messages: Sequence[Message], number: int) -> tuple[Reply, Literal["model", "cache"]]:
        key = content_key(self.writer.name, messages, number)
        with self._lock:
            asking = self._asking.setdefault(key, threading.Lock())
        # Faces with the same labels wait for the one answer instead of paying twice.
        with asking:
            if kept := self.cache.get(key):
                return kept, "cache"
            self._may_ask()
            reply = self.writer.write(messages)
            self.cache.put(key, reply)
        with self._lock:
            self._faults_in_a_row = 0
            self.tally.calls += 1
            self.tally.prompt_tokens += reply.prompt_tokens or 0
            self.tally.answer_tokens += reply.answer_tokens or 0
            self.tally.uncounted_calls += reply.prompt_tokens is None or reply.answer_tokens is None
        return reply, "model"

    def _may_ask(self) -> None:
        with self._lock:
            budget = self.policy.budget
            if budget is not None and self.tally.cost(self.policy.price) >= budget and not self._stopped:
                self._stopped = "budget spent"
                log.warning("captions.budget_spent", extra={"budget": budget})
            if self._stopped:
                raise _Stop(self._stopped)

    def _note_fault(self, fault: ChatError) -> None:
        with self._lock:
            self._faults_in_a_row += 1
            log.warning("caption.writer_failed", extra={"kind": fault.kind, "reason": str(fault)})
            if self._faults_in_a_row >= self.policy.give_up_after and not self._stopped:
                self._stopped = "writer given up"
                log.error("captions.writer_given_up", extra={"faults": self._faults_in_a_row, "reason": str(fault)})


def labels_of_texts(action: str, emotion: str) -> FaceLabels | None:
    """Return as labels what an action caption and an emotion caption mention; None where a half cannot be read.

    Words of emotion beside the vocabulary ("curious") are kept where the sentence is the rule's form, "... shows X and
    Y", so that nothing is lost; an action half without any action must say that the face rests.
    """
    said, felt = read(action), read(emotion)
    listed = _LISTED.fullmatch(" ".join(emotion.lower().split()))
    words = _AND.split(listed[1]) if listed and not read(emotion).units else []
    plain = all(_WORD.fullmatch(word) and (word in _KNOWN or not read(word).emotions) for word in words)
    named = tuple(map(canonical_emotion, words)) if plain else ()
    emotions = named or felt.emotions
    if not emotions or not (said.units or _RESTS.search(action)):
        return None
    return FaceLabels(said.units, emotions)
