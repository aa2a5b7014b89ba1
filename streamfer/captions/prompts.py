"""What a language model is told of a clip: what was measured, and the rules that its answer is checked by."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from streamfer.captions.english import confidence, moment, movement, strength_word
from streamfer.captions.measured import describe
from streamfer.captions.measurements import Measurements, Unit
from streamfer.captions.protocol import CaptionRequest, Message
from streamfer.captions.vocabulary import ACTION_UNITS
from streamfer.config import CaptionsConfig
from streamfer.errors import ConfigError
from streamfer.files import table_beside

_DATA = table_beside(__file__)
_RULES, _ANSWER, _AGAIN = _DATA["describe"], _DATA["answer"], _DATA["again"]
_SEEN, _UNSEEN = _DATA["pictures"]["seen"], _DATA["pictures"]["unseen"]
#: A made-up clip, described as is wanted.
_EXAMPLE = Measurements("surprise", 0.8, (Unit(1, 0.7, 0.3), Unit(2, 0.7, 0.3), Unit(25, 0.6, 0.3)), 0.0, 2.0, people=1)
_NUMBER, _WORD = re.compile(r"\d+(?:\.\d+)?"), re.compile(r"[\w'-]+")
#: Durations and counts in words; what is measured comes in digits.
_COUNTED = re.compile(
    r"\b(?:(?:one|two|three|four|five|six|seven|eight|nine|ten|several|many) (?:seconds?|minutes?|times)|twice)\b", re.I
)
#: So many words in a row out of the rules are no description.
_ECHO = 5
_OWN_WORDS = " ".join(_WORD.findall(f"{_RULES} {_AGAIN} {_ANSWER}".lower()))


def facts(measured: Measurements) -> str:
    """Return the measurements as lines that a language model reads."""
    lines = []
    if measured.emotion is None:
        lines.append(f"Label: none (the face is {measured.reason or 'unclear'})")
    else:
        sure = {"clear": "sure", "likely": "fairly sure", "weak": "not very sure", "unsure": "unsure"}
        lines.append(f"Label: {measured.emotion}, {measured.confidence:.0%} ({sure[confidence(measured)]})")
    if measured.units is not None:
        lines.append(f"Movements: {units_in_words(measured) or 'none'}")
    if measured.people is not None:
        lines.append(f"People in view: {measured.people}")
    lines.append(f"Part of the clip that shows the face: {measured.seen:.0%}")
    return "\n".join(lines)


def units_in_words(measured: Measurements) -> str:
    """Return the movements that were measured, with their times."""
    said = []
    for unit in measured.units or ():
        times = [
            f"{word} {moment(measured, seconds)}"
            for word, seconds in (("from", unit.onset), ("strongest at", unit.apex), ("until", unit.offset))
            if seconds is not None
        ]
        how = ", ".join([strength_word(unit.strength), *times])
        said.append(f"{movement(unit.number)} ({ACTION_UNITS[unit.number].name}; {how})")
    return "; ".join(said)


def describe_messages(request: CaptionRequest, settings: CaptionsConfig, *, as_json: bool = False) -> list[Message]:
    """Ask for a description of a clip; pictures are added by who can send them, ``as_json`` is how it is to answer."""
    seen = settings.images != "none" and len(request.keyframes) > 0
    own = settings.prompts.get(request.source, settings.prompt)
    asked = fill(own, variables(request, settings)) if own else "Describe the expression."
    if settings.language != "en":
        asked += f" Write it in English, and once more in the language {settings.language!r}."
    return [
        {"role": "system", "content": _RULES.format(pictures=_SEEN if seen else _UNSEEN)},
        # Without pictures words are all there is: small models need to be shown once what is wanted.
        *(_shown(asked, as_json=as_json) if not seen and settings.language == "en" else []),
        {"role": "user", "content": _told(request.measured, request.seed, asked, seen=seen)},
    ]


def _told(measured: Measurements, seed: str, asked: str, *, seen: bool) -> str:
    # The measured words of the clip are a start for who sees nothing else of it.
    draft = "" if seen else f"\nIn plain words: {describe(measured, seed)}"
    return f"{facts(measured)}{draft}\n\n{asked}"


def _shown(asked: str, *, as_json: bool) -> list[Message]:
    text = describe(_EXAMPLE, "shown")
    answer = json.dumps({"caption": text}) if as_json else text
    told = _told(_EXAMPLE, "told", asked, seen=False)
    return [{"role": "user", "content": told}, {"role": "assistant", "content": answer}]


def unfounded(text: str, measured: Measurements) -> list[str]:
    """Return what is wrong with a model's text beside its words: numbers that it was not told, and our own rules."""
    told = {float(number) for number in _NUMBER.findall(facts(measured))}
    found = [f"says {number}, which was not measured" for number in _NUMBER.findall(text) if float(number) not in told]
    found += [f"says {said}, which was not measured" for said in _COUNTED.findall(text)]
    spoken = " ".join(_WORD.findall(text.lower())).split()
    stretches = {" ".join(spoken[start : start + _ECHO]) for start in range(len(spoken) - _ECHO + 1)}
    return [*found, *(f'repeats the rules ("{echo}")' for echo in sorted(stretches) if echo in _OWN_WORDS)][:3]


def answer_messages(question: str, told: str, *, pictures: bool) -> list[Message]:
    """Ask a question about a face, in whatever language it was put."""
    return [
        {"role": "system", "content": _ANSWER.format(pictures=_SEEN if pictures else _UNSEEN)},
        {"role": "user", "content": f"{told}\n\nQuestion: {question}"},
    ]


def again(messages: Sequence[Message], text: str, faults: Sequence[str]) -> list[Message]:
    return [
        *messages,
        {"role": "assistant", "content": text},
        {"role": "user", "content": _AGAIN.format(faults=", and ".join(faults[:3]))},
    ]


def variables(request: CaptionRequest, settings: CaptionsConfig) -> dict[str, str]:
    """Return what a user's own prompt may name, and what stands for it."""
    known = request.measured
    return {
        "label": known.emotion or "none",
        "confidence": f"{known.confidence:.0%}",
        "units": units_in_words(known) or "none",
        "measured": facts(known),
        "source": request.source,
        "start": moment(known, known.start),
        "end": moment(known, known.end),
        "language": settings.language,
    }


def fill(template: str, values: Mapping[str, str]) -> str:
    """Put values into a prompt's ``{names}`` (ConfigError: one stands for nothing); other braces stay as they are."""

    def put(match: re.Match[str]) -> str:
        if match[1] not in values:
            known = ", ".join(f"{{{name}}}" for name in values)
            raise ConfigError(f"captions.prompt: {{{match[1]}}} stands for nothing; there are {known}")
        return values[match[1]]

    return re.sub(r"\{(\w+)\}", put, template)


def check_prompts(settings: CaptionsConfig) -> None:
    """Try the user's prompts before anything runs: a ConfigError where one names what does not exist."""
    values = variables(CaptionRequest(_EXAMPLE, "example"), settings)
    for prompt in (settings.prompt, *settings.prompts.values()):
        fill(prompt or "", values)
