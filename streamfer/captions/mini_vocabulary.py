"""The built-in captioner's own vocabulary: a small BPE, and tokens in which it plans what it will say.

An answer begins with a plan: one token for each action unit that it will mention, in reading order, and one for the
emotion; then `<say>` and the words, among which the same tokens announce what comes next. A yes or no is a token, too,
and stands behind the one unit or emotion that was asked about. Plan tokens are never shown.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from tokenizers import Tokenizer

from streamfer.errors import CheckpointError, ConfigError

PAD, END, ANSWER, SAY, YES, NO = "<pad>", "</s>", "<answer>", "<say>", "<yes>", "<no>"
_SENTENCE = re.compile(r"(?<=[.!?] )[a-z]")
_CONTROL = (PAD, END, ANSWER, SAY, YES, NO)


def unit_token(unit: int) -> str:
    """Return the plan's token of an action unit.

    >>> unit_token(6)
    '<au06>'
    """
    return f"<au{unit:02d}>"


def control_tokens(units: Sequence[int], emotions: Sequence[str]) -> list[str]:
    """Return the tokens that stand first in a vocabulary, in the order of their ids."""
    return [*_CONTROL, *map(unit_token, units), *(f"<{emotion}>" for emotion in emotions)]


@dataclass(frozen=True, slots=True)
class MiniVocabulary:
    """A tokenizer whose first tokens are those of :func:`control_tokens`.

    Attributes:
        tokenizer: of the `tokenizers` library.
        units: action units that a plan can hold, in reading order.
        emotions: emotions that it can hold.
    """

    tokenizer: Tokenizer
    units: tuple[int, ...]
    emotions: tuple[str, ...]
    pad: int = field(default=0, init=False)
    end: int = field(default=1, init=False)
    answer: int = field(default=2, init=False)
    say: int = field(default=3, init=False)
    yes: int = field(default=4, init=False)
    no: int = field(default=5, init=False)

    def __post_init__(self) -> None:
        for number, token in enumerate(control_tokens(self.units, self.emotions)):
            if self.tokenizer.token_to_id(token) != number:
                raise CheckpointError(f"vocabulary: token {token!r} is not number {number}; the file is damaged")

    @classmethod
    def from_json(cls, text: str, units: Sequence[int], emotions: Sequence[str]) -> MiniVocabulary:
        """Read what the tokenizer's ``to_str`` wrote.

        Raises:
            CheckpointError: it is no tokenizer, or one of another vocabulary.
        """
        try:
            tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # the Rust side raises bare exceptions
            raise CheckpointError(f"vocabulary: no tokenizer that can be read ({error})") from error
        return cls(tokenizer, tuple(units), tuple(emotions))

    def __len__(self) -> int:
        return int(self.tokenizer.get_vocab_size())

    @property
    def first_word(self) -> int:
        """The id at which words begin; below it are control and plan tokens."""
        return len(_CONTROL) + len(self.units) + len(self.emotions)

    def unit(self, number: int) -> int:
        """Return the id of an action unit of the vocabulary."""
        return len(_CONTROL) + self.units.index(number)

    def emotion(self, name: str) -> int:
        """Return the id of an emotion of the vocabulary."""
        return len(_CONTROL) + len(self.units) + self.emotions.index(name)

    def words(self, text: str) -> list[int]:
        """Return the ids of a text; control tokens in it must have been refused before."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def question(self, text: str, limit: int) -> list[int]:
        """Return the ids of a question.

        Raises:
            ConfigError: it holds a control token, or has more than `limit` tokens.
        """
        for token in control_tokens(self.units, self.emotions):
            if token in text:
                raise ConfigError(f"the question holds the model's control token {token!r}; leave it out")
        ids = self.words(text)
        if len(ids) > limit:
            raise ConfigError(
                f"the question has {len(ids)} tokens and the model reads {limit} at most; shorten it: {text[:40]!r}..."
            )
        return ids

    def text(self, ids: Sequence[int]) -> str:
        """Return the words among ids, stripped, sentences with a capital.

        Yes and no count as words, the rest of a plan does not.
        """
        said = "".join("yes" if one == self.yes else "no" for one in ids if one in (self.yes, self.no))
        words = [one for one in ids if one >= self.first_word]
        text = f"{said}{self.tokenizer.decode(words)}".strip()
        # A planned unit may follow where the decoder had ended its sentence.
        return _SENTENCE.sub(lambda found: found[0].upper(), text)
