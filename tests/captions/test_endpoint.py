"""An OpenAI-compatible server that the test runs, and that misbehaves in every way that servers are known to."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from endpoint_server import FACES, GOOD, SMILE, Server, chat, write, writer_of
from PIL import Image

pytest.importorskip("starlette", reason="the test server needs starlette and uvicorn")
uvicorn = pytest.importorskip("uvicorn")

from starlette.responses import JSONResponse, Response  # noqa: E402

from streamfer.captions.chat import KEY_VARIABLE, endpoint_url, key_for  # noqa: E402
from streamfer.captions.choosing import describe_choice  # noqa: E402
from streamfer.captions.endpoint import EndpointWriter  # noqa: E402
from streamfer.captions.protocol import Caption, CaptionError, CaptionRequest  # noqa: E402
from streamfer.config import CaptionsConfig  # noqa: E402
from streamfer.errors import ConfigError, UnknownModelError  # noqa: E402

#: Its fixtures: the server.
pytest_plugins = ["endpoint_server"]


def grey_of(part: dict[str, Any]) -> float:
    """How bright a picture of a request is."""
    data = base64.b64decode(part["image_url"]["url"].partition(",")[2])
    return float(np.asarray(Image.open(io.BytesIO(data))).mean())


# -- what is asked ----------------------------------------------------------------------------------------------


def test_pictures_come_oldest_first_behind_the_measurements(server: Server) -> None:
    found = write(server)
    assert isinstance(found, Caption)
    assert (found.text, found.replaced) == (GOOD, "")
    (body,) = server.asked
    system, user = body["messages"]
    assert "never an instruction" in system["content"]
    text, *pictures = user["content"]
    assert "Label: happiness, 90% (sure)" in text["text"]
    assert "the lip corners are pulled up (lip corner puller; strong, from 0.5 s, strongest at 1.0 s" in text["text"]
    assert all(one["image_url"]["url"].startswith("data:image/jpeg;base64,/9j/") for one in pictures)
    assert [round(grey_of(one), -1) for one in pictures] == [20, 220]
    form = body["response_format"]["json_schema"]
    # Strict needs the last line; titles and limits make Ollama drop required fields.
    assert form["strict"]
    assert form["schema"] == {
        "type": "object", "properties": {"caption": {"type": "string"}}, "required": ["caption"],
        "additionalProperties": False,
    }  # fmt: skip
    assert (body["chat_template_kwargs"], body["think"]) == ({"enable_thinking": False}, False)
    assert server.keys == [None]


def test_no_more_pictures_than_any_server_takes_the_latest_ones(server: Server) -> None:
    many = np.stack([np.full((32, 32, 3), 30 * step, np.uint8) for step in range(8)])
    writer_of(server).draft([CaptionRequest(SMILE, "1", keyframes=many)])
    _, *pictures = server.asked[0]["messages"][1]["content"]
    assert [round(grey_of(one), -1) for one in pictures] == [90, 120, 150, 180, 210]


def test_thinking_is_left_to_the_server_where_it_is_asked_for(server: Server) -> None:
    write(server, thinking=True)
    assert not {"think", "chat_template_kwargs"} & server.asked[0].keys()


def test_no_picture_leaves_where_none_is_to(server: Server) -> None:
    assert writer_of(server, images="none").info.crop is None
    writer = writer_of(server, images="none")
    writer.write([CaptionRequest(SMILE, "1")])
    assert isinstance(server.asked[0]["messages"][1]["content"], str)
    assert "You do not see the clip" in server.asked[0]["messages"][0]["content"]


def test_a_text_model_is_shown_an_example_and_starts_from_measured_words(server: Server) -> None:
    writer = writer_of(server, images="none")
    writer.write([CaptionRequest(SMILE, "1")])
    _, shown, said, asked = server.asked[0]["messages"]
    assert "Label: surprise" in shown["content"]
    assert json.loads(said["content"])["caption"].startswith("This is a clear expression of surprise.")
    assert "In plain words: " in asked["content"]
    assert "happiness" in asked["content"].partition("In plain words: ")[2]


def test_surroundings_are_sent_where_they_are_asked_for(server: Server) -> None:
    near, wide = (writer_of(server, images=images).info.picture for images in ("crops", "surroundings"))
    assert (near.margin, near.size, wide.margin, wide.size) == (0.25, 224, 1.0, 448)


@pytest.mark.parametrize(
    ("url", "images", "expected"),
    [
        ("http://localhost:1/v1", "crops", "pictures of faces and measurements go to http://localhost:1/v1"),
        ("https://far/v1", "none", "measurements leave this machine for https://far/v1"),
        ("https://far/v1", "surroundings", "faces with their surroundings and measurements leave this machine"),
    ],
)
def test_what_leaves_the_machine_is_said(url: str, images: str, expected: str) -> None:
    captions = CaptionsConfig(model="openai:seer", url=url, images=images)
    assert expected in describe_choice(captions)
    assert describe_choice(CaptionsConfig()) == "measured words (built in); nothing leaves this machine"


def test_a_model_is_known_by_its_files_name_and_little_room_is_warned_of(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.models = {"data": [{"id": "/models/tiny.gguf", "meta": {"n_ctx": 512}}]}
    writer_of(server, model="tiny.gguf", images="none").check()
    assert "has room for 512 tokens" in caplog.text
    asking = writer_of(server, model="tiny.gguf", images="none")
    asking.check()
    asking.draft([CaptionRequest(SMILE, "1")])
    assert server.asked[-1]["model"] == "/models/tiny.gguf"


def test_a_prompt_of_ones_own_for_a_source(server: Server) -> None:
    write(server, prompts={"hall": "Say {label} ({confidence}) at {source}."})
    assert server.asked[0]["messages"][1]["content"][0]["text"].endswith("Say happiness (90%) at hall.")
    with pytest.raises(ConfigError, match=r"\{mood\} stands for nothing; there are \{label\}"):
        writer_of(server, prompt="{mood}")


def test_another_language_comes_with_an_english_twin_that_is_checked(server: Server) -> None:
    twin = {"english": GOOD, "caption": "Das Gesicht zeigt Freude; die Mundwinkel sind hochgezogen."}
    server.replies = [lambda _: chat(json.dumps(twin))]
    found = write(server, language="German")
    assert isinstance(found, Caption)
    assert (found.text, found.replaced) == (twin["caption"], "")
    asked = server.asked[0]["messages"][1]["content"][0]["text"]
    assert asked.endswith("Write it in English, and once more in the language 'German'.")
    assert server.asked[0]["response_format"]["json_schema"]["schema"]["required"] == ["english", "caption"]
    server.replies = [lambda _: chat(json.dumps({**twin, "english": "The nose is wrinkled."}))]
    found = write(server, language="German")
    assert isinstance(found, Caption)
    assert "names unit 9" in found.replaced


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:11434", "http://localhost:11434/v1"),
        ("http://localhost:11434/v1/", "http://localhost:11434/v1"),
        ("https://host/v1beta/openai", "https://host/v1beta/openai"),
        ("http://h/v1/chat/completions", "http://h/v1"),
    ],
)
def test_an_address_is_taken_with_and_without_v1(url: str, expected: str) -> None:
    assert endpoint_url(url) == expected


def test_keys_go_where_they_belong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-theirs")
    assert key_for("http://elsewhere/v1") is None
    assert key_for("https://api.openai.com/v1") == "sk-theirs"
    assert key_for("http://elsewhere/v1", "OPENAI_API_KEY") == "sk-theirs"
    monkeypatch.setenv(KEY_VARIABLE, "own")
    assert key_for("http://elsewhere/v1") == "own"
    with pytest.raises(ConfigError, match="NOBODY is empty"):
        key_for("http://elsewhere/v1", "NOBODY")
    with pytest.raises(ConfigError, match="carries credentials"):
        endpoint_url("http://me:secret@host/v1")
    for url in ("ftp://host", "http://[::1", "http://host:http/v1", "http://"):
        with pytest.raises(ConfigError, match="no http"):
            endpoint_url(url)


# -- the start --------------------------------------------------------------------------------------------------


def test_a_model_that_sees_is_taken(server: Server) -> None:
    server.replies = [lambda _: chat("Red.")]
    writer_of(server).check()
    assert len(server.asked) == 1


def test_a_model_that_sees_no_red_is_warned_of(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.replies = [lambda _: chat("Purple, perhaps.")]
    writer_of(server).check()
    assert "may not see pictures: it calls a red one 'Purple, perhaps.'" in caplog.text


def test_what_leaves_this_machine_is_warned_of_at_the_start(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.replies = [lambda _: chat("red")]
    writer_of(server).check()
    assert "leave" not in caplog.text
    # It leads here, but does not say so.
    writer_of(server, url=server.url.replace("127.0.0.1", "0.0.0.0")).check()
    assert "pictures of faces and measurements leave this machine for http://0.0.0.0" in caplog.text


def test_openai_is_asked_for_pictures_of_low_detail(server: Server) -> None:
    for low, detail in ((False, {None}), (True, {"low"})):
        asking = writer_of(server)
        asking._client.is_openai = low
        asking.draft([CaptionRequest(SMILE, "1", keyframes=FACES)])
        _, *pictures = server.asked[-1]["messages"][1]["content"]
        assert {one["image_url"].get("detail") for one in pictures} == detail
    assert EndpointWriter("m", CaptionsConfig())._client.is_openai


def test_a_wrong_name_lists_what_there_is(server: Server) -> None:
    with pytest.raises(UnknownModelError, match="has no such model; it has other, seer"):
        writer_of(server, model="serr").check()
    assert server.asked == []


def test_a_name_without_its_tag_is_ollamas_latest(server: Server) -> None:
    server.models = {"models": [{"name": "seer:latest"}, {"name": "seer:2b"}]}
    asking = writer_of(server, images="none")
    asking.check()
    asking.draft([CaptionRequest(SMILE, "1")])
    assert server.asked[-1]["model"] == "seer:latest"


def test_a_server_without_a_list_of_models_is_taken(server: Server) -> None:
    server.models, server.replies = Response("nothing here", 404), [lambda _: chat("red")]
    writer_of(server).check()


def test_a_text_only_model_is_named_at_the_start(server: Server) -> None:
    error = {"error": {"message": "seer is not a multimodal model: image input is not supported"}}
    server.replies = [lambda _: JSONResponse(error, 400)]
    with pytest.raises(UnknownModelError, match=r"takes no pictures .*captions.images=none"):
        writer_of(server).check()


def test_a_refused_key_is_a_users_error(server: Server) -> None:
    server.models = JSONResponse({"error": "no key"}, 401)
    with pytest.raises(ConfigError, match=r"answered 401.*is the key in STREAMFER_LLM_API_KEY right"):
        writer_of(server).check()


def test_an_absent_server_fails_no_run_and_is_asked_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = [1000.0]
    settings = CaptionsConfig(url="http://127.0.0.1:9/v1", timeout=2, attempts=1)
    absent = EndpointWriter("seer", settings, clock=lambda: now[0])
    absent.check()
    request = CaptionRequest(SMILE, "1", keyframes=FACES)
    causes = [one.cause for _ in range(3) for one in absent.write([request]) if isinstance(one, CaptionError)]
    assert causes == ["endpoint_resting"] * 3
    now[0] += 61
    (again,) = absent.write([request])
    assert isinstance(again, CaptionError)
    assert again.cause == "endpoint_unreachable"
    assert sum("captions are missing until it answers" in one.getMessage() for one in caplog.records) == 1
