"""``streamfer ask`` with a fake captioner: which face is asked about, what is said, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Finished, streamfer
from fakes.captioners import FakeCaptioner
from fakes.faces import FakeDetector
from fakes.models import FakeExpressionModel
from PIL import Image

from streamfer import build
from streamfer.build import LoadedModels
from streamfer.captions import choosing
from streamfer.captions.protocol import wants_yes_or_no
from streamfer.config import Config
from streamfer.threads import plan_threads
from streamfer.video.encode import write_video


def picture(number: int) -> np.ndarray:
    """Two faces: a small one all the time, and a large one from 2.2 s on, brightest at 3 s."""
    image = np.full((240, 320, 3), 30, np.uint8)
    image[20:60, 20 + number % 8 : 60 + number % 8] = 210
    if number >= 55:
        image[100:200, 180:280] = 255 - min(45, 2 * abs(number - 75))
    return image


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("films") / "two.mp4"
    write_video(path, (picture(number) for number in range(125)), 25)
    return path


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("films") / "nobody.mp4"
    write_video(path, (np.full((120, 160, 3), 30, np.uint8) for _ in range(40)), 25)
    return path


@pytest.fixture
def captioner(monkeypatch: pytest.MonkeyPatch) -> FakeCaptioner:
    """Who answers in place of ``fakes/one``; face and expression are fakes as well."""
    fake = FakeCaptioner(name="one")
    install(monkeypatch, fake)
    return fake


def install(monkeypatch: pytest.MonkeyPatch, fake: FakeCaptioner) -> None:
    def load(config: Config) -> FakeCaptioner:
        assert (config.captions.model, config.captions.device) == ("fakes/one", "auto")
        return fake

    reader = FakeExpressionModel(action_units=("AU01", "AU06", "AU12", "AU25"))
    monkeypatch.setattr(choosing, "load_model", load)
    loaded = LoadedModels(reader, (FakeDetector(),), plan_threads(1))
    monkeypatch.setattr(build, "load_all", lambda _config, _sources: loaded)


def ask(path: Path, question: str, *words: str) -> Finished:
    return streamfer("ask", path, question, "--captioner", "fakes/one", *words)


def answer(path: Path, question: str, *words: str) -> dict[str, Any]:
    done = ask(path, question, "--json", *words)
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def test_a_question_is_answered_about_the_face_that_is_seen_longest(film: Path, captioner: FakeCaptioner) -> None:
    done = ask(film, "  what does this person show?")
    assert done.code == 0
    assert done.out.startswith("what does this person show? ")
    assert "pictures of brightness" in done.out
    assert done.err.startswith("one: track 1, seen at ")
    assert "--track asks about another: 2" in done.err
    assert "licence: none: not a model" in done.err
    assert len(captioner.batches) == 1


def test_a_question_for_yes_or_no_gives_a_probability(film: Path, captioner: FakeCaptioner) -> None:
    found = answer(film, "Is the inner brow raised?", "--track", "2")
    assert found["text"] == "yes"
    assert 0.5 < found["probability"] < 1
    assert (found["track"], found["tracks"], found["model"]["name"]) == (2, [1, 2], "one")
    shown = ask(film, "Is the inner brow raised?", "--track", "2").out
    assert shown == f"yes  (yes {found['probability']:.0%})\n"
    worded = answer(film, "Is it bright?", "--words")
    assert worded["probability"] is None
    assert worded["text"].startswith("Is it bright? ")
    # What it says there was not measured.
    wrong = answer(film, "Is the nose wrinkled?", "--words")
    assert wrong["replaced"] == "names unit 9 (nose wrinkler), which is absent"
    assert wrong["text"].startswith("I can't tell: the model does not read whether the nose is wrinkled")


def test_the_strongest_expression_is_looked_at_or_the_moment_that_is_named(
    film: Path, captioner: FakeCaptioner
) -> None:
    strongest = answer(film, "who?", "--track", "2")
    assert strongest["start"] <= strongest["keyframes"][-1] <= strongest["end"]
    assert strongest["keyframes"][-1] == pytest.approx(3.0, abs=0.2)
    early = answer(film, "who?", "--at", "0.5")
    assert early["start"] <= 0.5 <= early["end"]
    assert early["track"] == 1
    assert captioner.seen[0] != captioner.seen[1]


def test_a_picture_is_asked_as_a_video_is(tmp_path: Path, captioner: FakeCaptioner) -> None:
    Image.fromarray(picture(75)).save(tmp_path / "still.png")
    found = answer(tmp_path / "still.png", "what is shown?")
    assert found["text"].startswith("what is shown? 1 pictures")
    assert found["tracks"] == [1, 2]
    assert len(captioner.batches) == 1


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("what?", "--track", "9"), "no track 9; the faces here are 1, 2"),
        (("what?", "--at", "77"), "no face at 77 s; there is track 1 at 0.0"),
        (("what?", "--track", "2", "--at", "1.5"), "no face at 1.5 s; there is track 1 at 0.0–4.9 s, track 2 at 2."),
        (("why " * 200,), "the question has 200 words and the model reads 128 tokens at most; shorten it: 'why why"),
        (("  ",), "the question is empty"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    film: Path, captioner: FakeCaptioner, words: tuple[str, ...], complaint: str
) -> None:
    done = ask(film, *words)
    assert done.code == 2
    (line,) = done.complaints
    assert complaint in line
    assert captioner.batches == []


def test_nobody_to_ask_about(empty: Path, captioner: FakeCaptioner) -> None:
    done = ask(empty, "who?")
    assert done.code == 2
    assert "nobody.mp4: no face was found" in done.complaints[0]
    assert ask(Path("absent.mp4"), "who?").complaints[0].startswith("absent.mp4")
    assert captioner.batches == []


def test_a_model_that_only_describes_is_named_before_the_video_is_read(
    film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, FakeCaptioner(name="mute", answers=False))
    done = ask(film, "who?")
    assert done.code == 2
    assert "model 'mute' describes faces and was not trained to answer" in done.complaints[0]


def test_measurements_answer_unless_a_captioner_is_named(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = FakeExpressionModel(action_units=("AU01", "AU06", "AU12", "AU25"))
    loaded = LoadedModels(reader, (FakeDetector(),), plan_threads(1))
    monkeypatch.setattr(build, "load_all", lambda _config, _sources: loaded)
    done = streamfer("ask", film, "How many people are there?")
    assert (done.code, done.out) == (0, "Two people can be seen.\n")
    assert done.err.startswith("measured: track 1; ")
    found = json.loads(streamfer("ask", film, "Is the inner brow raised?", "--track", "2", "--json").out)
    assert (found["yes"], found["probability"], found["keyframes"]) == (False, None, [])
    assert found["text"].startswith("No: the inner ends of the eyebrows are not raised in what is seen (2.")
    assert streamfer("ask", film, "Is he lying?").out.startswith("I can't see that from a face.")


class _Contrary(FakeCaptioner):
    """Answers as an endpoint does, whatever was measured."""

    def answer(self, question: str, told: str, keyframes: Any) -> str:
        return f"Yes, as the pictures show: {len(keyframes)}, {'No: ' in told}."


def test_a_model_may_not_say_yes_where_the_measurements_say_no(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, _Contrary(name="one"))
    found = answer(film, "Is the inner brow raised?", "--track", "2")
    assert found["replaced"] == "contradicts the measurements"
    assert (found["yes"], found["text"].partition(":")[0]) == (False, "No")
    agreed = answer(film, "Is the inner brow not raised?", "--track", "2")
    assert (agreed["replaced"], agreed["text"]) == ("", "Yes, as the pictures show: 1, False.")


def test_when_to_describe_is_no_name(film: Path) -> None:
    done = streamfer("annotate", film, "--captions", "one")
    assert done.code == 2
    assert "'one' is not one of 'off', 'changes', 'all'" in done.err


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Is it?", True),
        ("does the brow move", True),
        ("Island?", False),
        ("what is it?", False),
        ("Could they be sad?", True),
    ],
)
def test_questions_for_yes_or_no_are_known_by_their_first_word(question: str, expected: bool) -> None:
    assert wants_yes_or_no(question) is expected
