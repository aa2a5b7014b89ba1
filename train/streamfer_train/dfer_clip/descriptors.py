"""What the text tower reads about each class: names, names in a sentence, or descriptions of the face.

The descriptions are in our own words; they name the same visible cues as the publication's (its section 3.2), so
that imported and newly trained prompts mean the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from streamfer.errors import ConfigError

TextType = Literal["class_names", "class_names_with_context", "class_descriptor"]

#: Words for a class in prompts, where they differ from its name.
_NAMES = {"neutral": "a neutral face"}

#: What can be seen in a face, for each class of the authors' datasets.
DESCRIPTORS: dict[str, str] = {
    "happiness": "a smiling mouth with raised cheeks, wrinkles beside the eyes and arched eyebrows.",
    "sadness": "tears, mouth corners turned down, drooping upper eyelids and a wrinkled forehead.",
    "neutral": "relaxed facial muscles, a straight mouth, a smooth forehead and unremarkable eyebrows.",
    "anger": "furrowed eyebrows, narrowed eyes, lips pressed tight and flared nostrils.",
    "surprise": "widened eyes, an open mouth, raised eyebrows and a frozen look.",
    "disgust": "a wrinkled nose, lowered eyebrows, a tightened mouth and narrow eyes.",
    "fear": "raised eyebrows, parted lips, a furrowed brow and a retracted chin.",
    "contempt": "one side of the mouth raised, one eyebrow higher than the other, narrowed eyes and a raised chin.",
    "anxiety": "a tense forehead, tightly pressed lips, dilated pupils and strain in the whole face.",
    "helplessness": "drooping eyebrows, a gaze turned down, sagging mouth corners and a lack of expression.",
    "disappointment": "mouth corners turned down, lowered eyebrows, narrowed eyes and a sighing face.",
}


def prompts(classes: Sequence[str], kind: TextType, overrides: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Return the text of each class's prompt, in the order of ``classes``.

    Args:
        classes: names of the classes.
        kind: ``class_names`` ("happiness."), ``class_names_with_context`` ("an expression of happiness."), or
            ``class_descriptor``.
        overrides: texts of one's own by class, whatever ``kind`` is.

    Raises:
        ConfigError: an override for a class that does not exist, or a class without a description.
    """
    own = dict(overrides or {})
    if unknown := sorted(own.keys() - set(classes)):
        raise ConfigError(f"text.descriptors: {unknown[0]!r} is none of the classes {', '.join(classes)}")
    return tuple(own.get(name) or _text(name, kind) for name in classes)


def _text(name: str, kind: TextType) -> str:
    if kind == "class_names":
        return f"{name}."
    if kind == "class_names_with_context":
        return f"an expression of {_NAMES.get(name, name)}."
    if name.lower() not in DESCRIPTORS:
        raise ConfigError(
            f"text.descriptors: no description of {name!r}; add one there, or set text.type: class_names_with_context"
        )
    return DESCRIPTORS[name.lower()]
