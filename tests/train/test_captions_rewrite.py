"""Captions by a language model behind a real local server that is good, nonsensical, slow, busy, or refuses."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from streamfer.captions.chat import KEY_VARIABLE, ChatClient, ChatError, Reply, key_for
from streamfer.captions.checks import faults
from streamfer.captions.protocol import Message
from streamfer.errors import CheckpointError, ConfigError
from streamfer_train.captions import __main__ as command
from streamfer_train.captions import writers
from streamfer_train.captions.labels import FaceLabels
from streamfer_train.captions.questions import global_question, region_question, unit_question
from streamfer_train.captions.rewrite import Policy, Rewriter, labels_of_texts
from streamfer_train.captions.writers import (
    ReplyCache,
    Writer,
    content_key,
    fuse_messages,
    named_writer,
    rewrite_messages,
)

SMILE = FaceLabels.of([6, 12], "happiness")
GOOD = "The cheeks are raised and the corners of the mouth are pulled up."
FUSED = f"{GOOD[:-1]}, which is consistent with happiness."
Answer = tuple[int, dict[str, str], bytes]


def chat(text: object, **more: object) -> Answer:
    """What an OpenAI-compatible server answers."""
    usage = {"prompt_tokens": 200, "completion_tokens": 20}
    document = {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage, **more}
    return 200, {"Content-Type": "application/json"}, json.dumps(document).encode()


class Server:
    """A chat server on a free local port; ``answers`` are given in turn, the last one for ever."""

    def __init__(self) -> None:
        self.answers: list[Answer | Callable[[BaseHTTPRequestHandler], None]] = [chat(GOOD)]
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        outer, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.requests.append({"path": self.path, **body})
                    outer.keys.append(self.headers.get("Authorization"))
                    answer = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                if callable(answer):
                    answer(self)
                    return
                status, headers, content = answer
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ReplyCache]:
    with ReplyCache(tmp_path / "answers.sqlite") as kept:
        yield kept


def endpoint(server: Server, **more: Any) -> Writer:
    options = {"key": key_for(server.url), "timeout": 60.0, "longest_wait": 0.05, **more}
    return writers.endpoint(ChatClient(server.url, "writer-1", **options))


def drip(handler: BaseHTTPRequestHandler) -> None:
    """A server that sends a byte now and then."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(40):
        try:
            handler.wfile.write(b" ")
            handler.wfile.flush()
        except OSError:
            return
        time.sleep(0.05)


def test_a_good_text_is_taken_and_kept(server: Server, cache: ReplyCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "sk-secret")
    policy = Policy(price=(1.0, 10.0))
    rewriter = Rewriter(endpoint(server), cache, policy)
    written = list(rewriter.rewrite([SMILE, SMILE]))
    # Two threads: either may be the one that asks, and the other waits for its answer.
    assert sorted((one.text, one.origin) for one in written) == [(GOOD, "cache"), (GOOD, "model")]
    (request,) = server.requests
    assert (request["path"], request["model"]) == ("/v1/chat/completions", "writer-1")
    assert server.keys == ["Bearer sk-secret"]
    assert "cheek raiser, lip corner puller" in request["messages"][-1]["content"]
    assert (rewriter.tally.prompt_tokens, rewriter.tally.answer_tokens) == (200, 20)
    assert rewriter.tally.cost(policy.price) == pytest.approx(200e-6 + 200e-6)
    assert "1 by the model, 1 by the cache" in rewriter.tally.summary(policy.price)
    assert "cost 0.0004" in rewriter.tally.summary(policy.price)
    again = Rewriter(endpoint(server), cache, policy)
    assert [one.origin for one in again.rewrite([SMILE])] == ["cache"]
    assert (len(server.requests), again.tally.cost(policy.price)) == (1, 0.0)


def test_a_text_that_fails_its_checks_is_asked_for_again(server: Server, cache: ReplyCache) -> None:
    server.answers = [chat("AU12 is visible and the nose is wrinkled."), chat(GOOD)]
    rewriter = Rewriter(endpoint(server), cache)
    assert [one.text for one in rewriter.rewrite([SMILE])] == [GOOD]
    assert rewriter.tally.refused_texts == 1
    assert 'says "AU12"' in server.requests[1]["messages"][-1]["content"]


@pytest.mark.parametrize(
    ("answers", "reason", "calls"),
    [
        ([chat("I'm sorry, but I can't help with that.")], "every text failed its checks", 2),
        ([chat("The lips are pressed and the person is angry.")], "every text failed its checks", 2),
        ([chat("")], "nonsense", 1),
        ([chat(["not", "text"])], "nonsense", 1),
        ([(200, {}, b"<html>hello</html>")], "nonsense", 1),
        ([(200, {}, b'{"choices": []}')], "nonsense", 1),
        ([(200, {}, b"[1]")], "nonsense", 1),
        ([(401, {}, b"{}")], "denied", 1),
        ([(302, {"Location": "http://127.0.0.1:9/"}, b"")], "denied", 1),
        ([(429, {"Retry-After": "0"}, b"{}")], "busy", 3),
        ([(503, {}, b"{}")], "busy", 3),
        ([drip], "slow", 1),
    ],
    ids=[
        "refusal",
        "wrong",
        "empty",
        "list",
        "html",
        "no-choice",
        "no-object",
        "denied",
        "redirect",
        "429",
        "503",
        "slow",
    ],
)
def test_the_grammar_speaks_where_the_model_fails(
    server: Server, cache: ReplyCache, answers: list[Any], reason: str, calls: int
) -> None:
    server.answers = answers
    # Only what drips has to run into its time limit.
    rewriter = Rewriter(endpoint(server, timeout=0.4 if reason == "slow" else 60.0, attempts=3), cache)
    (written,) = rewriter.rewrite([SMILE])
    assert (written.origin, written.reason) == ("grammar", reason)
    assert faults(written.text, SMILE, emotion_allowed=False) == ()
    assert len(server.requests) == calls
    assert rewriter.tally.reasons == {reason: 1}
    assert reason in rewriter.tally.summary(Policy().price)


def test_a_busy_server_is_asked_again(server: Server, cache: ReplyCache) -> None:
    server.answers = [(429, {"Retry-After": "0"}, b""), (500, {}, b""), chat(GOOD)]
    rewriter = Rewriter(endpoint(server), cache)
    assert [one.origin for one in rewriter.rewrite([SMILE])] == ["model"]
    assert len(server.requests) == 3


def test_a_dead_server_is_given_up(cache: ReplyCache) -> None:
    writer = writers.endpoint(ChatClient("http://127.0.0.1:9/v1", "m", timeout=1, attempts=1))
    rewriter = Rewriter(writer, cache, Policy(concurrency=1, give_up_after=2))
    written = list(rewriter.rewrite([FaceLabels.of([unit]) for unit in (1, 2, 4, 5, 6)]))
    assert [one.reason for one in written] == ["unreachable"] * 2 + ["writer given up"] * 3
    assert all(one.origin == "grammar" for one in written)


def test_the_budget_ends_the_asking(server: Server, cache: ReplyCache) -> None:
    policy = Policy(concurrency=1, tries=1, price=(0.0, 1e6), budget=30.0)
    server.answers = [chat("The inner brows are raised."), chat("The outer brows are raised."), chat(GOOD)]
    rewriter = Rewriter(endpoint(server), cache, policy)
    written = list(rewriter.rewrite([FaceLabels.of([1]), FaceLabels.of([2]), SMILE]))
    assert [one.origin for one in written] == ["model", "model", "grammar"]
    assert written[2].reason == "budget spent"
    assert len(server.requests) == 2


def test_many_threads_keep_the_order_and_ask_equal_questions_once(server: Server, cache: ReplyCache) -> None:
    server.answers = [chat(GOOD)]
    faces = [SMILE if number % 2 else FaceLabels.of([]) for number in range(40)]
    rewriter = Rewriter(endpoint(server), cache, Policy(concurrency=8))
    texts = [one.text for one in rewriter.rewrite(faces)]
    assert [text == GOOD for text in texts] == [bool(number % 2) for number in range(40)]
    assert len(server.requests) == 1


def test_variants_ask_for_different_texts(server: Server, cache: ReplyCache) -> None:
    list(Rewriter(endpoint(server), cache, Policy(variants=4, tries=1)).rewrite([SMILE] * 40))
    assert len(server.requests) == 4


def test_fusion_names_actions_and_emotion(server: Server, cache: ReplyCache) -> None:
    server.answers = [chat(GOOD), chat(FUSED)]
    rewriter = Rewriter(endpoint(server), cache)
    (written,) = rewriter.fuse([SMILE])
    assert (written.text, written.origin, rewriter.tally.refused_texts) == (FUSED, "model", 1)
    (pair,) = rewriter.fuse_texts([("The person raises cheek and pulls lip corner.", "The face shows joy.")])
    assert (pair.text, pair.origin) == (FUSED, "model")
    question = server.requests[-1]["messages"][-1]["content"]
    assert question == "Facial actions: The person raises cheek and pulls lip corner.\nEmotion: The face shows joy."


@pytest.mark.parametrize(
    ("action", "emotion", "units", "emotions"),
    [
        ("It is a people who raises chin.", "The face shows happiness and surprise.", {17}, ("happiness", "surprise")),
        ("The lips part.", "The face shows curious.", {25}, ("curious",)),
        ("The lips part.", "the face shows joy, sleepy and eager.", {25}, ("happiness", "sleepy", "eager")),
        ("The face is at rest and the mouth is relaxed.", "The person is very sad.", set(), ("sadness",)),
        ("The face is at rest.", "This is consistent with fear.", set(), ("fear",)),
    ],
)
def test_halves_are_read_with_every_word(action: str, emotion: str, units: set[int], emotions: tuple[str, ...]) -> None:
    labels = labels_of_texts(action, emotion)
    assert labels is not None
    assert (set(labels.action_units or ()), labels.emotions) == (units, emotions)


@pytest.mark.parametrize(
    ("action", "emotion"),
    [("Something happens here.", "The face shows joy."), ("The lips part.", "One wonders what comes next.")],
)
def test_a_half_that_cannot_be_read_is_counted_and_stays(
    server: Server, cache: ReplyCache, action: str, emotion: str
) -> None:
    rewriter = Rewriter(endpoint(server), cache)
    (written,) = rewriter.fuse_texts([(action, emotion)])
    assert (written.text, written.origin) == (f"{action} {emotion}", "grammar")
    assert "a half could not be read and both stand as they are: 1" in rewriter.tally.summary(rewriter.policy.price)
    assert server.requests == []


def test_questions_are_put_into_other_words_that_mean_the_same(server: Server, cache: ReplyCache) -> None:
    whole, region, unit = (
        global_question(SMILE, 1), region_question(SMILE, "mouth", 1), unit_question(12, True, 1)
    )  # fmt: skip
    assert region is not None
    said = {whole.question: "What does this person's face tell?", region.question: "What does the mouth do here?",
            unit.question: "Are the lips parted?"}  # fmt: skip

    def write(messages: Sequence[Message]) -> Reply:
        asked = messages[-1]["content"] if len(messages) == 2 else ""
        if asked in said:
            return Reply(said[asked], 1, 1)
        return Reply(FUSED if "Emotion:" in asked else "The corners of the mouth are pulled up.", 1, 1)

    rewriter = Rewriter(Writer("told", write), cache, Policy(tries=1))
    found = list(rewriter.ask([(SMILE, whole), (SMILE, region), (SMILE, unit)]))
    assert [one.question for one, _ in found] == [said[whole.question], said[region.question], unit.question]
    assert [written.text for _, written in found] == [FUSED, "The corners of the mouth are pulled up.", "yes"]


def test_an_endpoint_that_refuses_ends_the_command(server: Server, tmp_path: Path, capsys: Any) -> None:
    labels = tmp_path / "labels.json"
    labels.write_text('[{"image": "a.jpg", "action_units": [6, 12]}]')
    words = ["questions", "--labels", str(labels), "--out", str(tmp_path / "q.json"), "--model", "m"]
    assert command.main([*words, "--url", "http://127.0.0.1:9/v1"]) == 2
    assert "cannot be reached" in capsys.readouterr().err
    assert not (tmp_path / "q.json").exists()
    assert command.main([*words, "--url", server.url, "--cache", str(tmp_path / "k.sqlite")]) == 0


def test_prompts_never_give_the_codes_away() -> None:
    for messages in (rewrite_messages(SMILE), fuse_messages(GOOD, "The face shows happiness.")):
        for message in messages:
            assert "AU" not in message["content"]
    example = rewrite_messages(SMILE)[2]["content"]
    assert faults(example, FaceLabels.of([1, 6, 15, 24]), emotion_allowed=False) == ()


def test_keys_depend_on_all_that_goes_in() -> None:
    messages = rewrite_messages(SMILE)
    keys = {content_key("a", messages), content_key("b", messages), content_key("a", messages, 1),
            content_key("a", messages[1:])}  # fmt: skip
    assert len(keys) == 4


def test_a_cache_outlives_its_process_and_refuses_other_files(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "answers.sqlite"
    with ReplyCache(path) as kept:
        kept.put("k", Reply("text", 1, None))
    with ReplyCache(path) as kept:
        assert kept.get("k") == Reply("text", 1, None)
        assert kept.get("other") is None
    path.with_name("notes.txt").write_text("no database " * 100)
    with pytest.raises(ConfigError, match=r"notes\.txt: cannot be used as a cache"):
        ReplyCache(path.with_name("notes.txt"))


@pytest.mark.parametrize("url", ["ftp://host/v1", "host/v1", "https://user:pw@host/v1"])
def test_addresses_that_cannot_be(url: str) -> None:
    with pytest.raises(ConfigError) as raised:
        named_writer(url, "m")
    assert "pw" not in str(raised.value)


@pytest.fixture(scope="module")
def local_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random language model of a few thousand weights with a word vocabulary of its own."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("lm")
    words = {word: number for number, word in enumerate(["<unk>", "</s>", "the", "lips", "are", "raised", "cheeks"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>").save_pretrained(folder)
    config = OPTConfig(vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=16,
                       max_position_embeddings=2048, word_embed_proj_dim=16, bos_token_id=1, eos_token_id=1,
                       pad_token_id=1)  # fmt: skip
    OPTForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_local_model_writes_and_its_nonsense_is_replaced(local_model: Path, cache: ReplyCache) -> None:
    writer = writers.local_model(local_model, max_tokens=12)
    rewriter = Rewriter(writer, cache, Policy(tries=1))
    (written,) = rewriter.rewrite([SMILE])
    assert written.origin == "grammar"
    assert rewriter.tally.captions == {"grammar": 1}
    with pytest.raises(ChatError, match="does not fit"):
        writers.local_model(local_model, max_tokens=4000).write(rewrite_messages(SMILE))


def test_a_folder_without_a_model_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no transformers model there"):
        named_writer(None, str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "opt"}')
    with pytest.raises(CheckpointError, match="cannot be loaded as a causal language model"):
        named_writer(None, str(tmp_path))


def test_the_command_writes_and_says_what_it_cost(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = tmp_path / "labels.jsonl"
    labels.write_text('{"image": "a.jpg", "action_units": [6, 12]}\n{"image": "b.jpg", "action_units": [4]}\n')
    out, kept = tmp_path / "out.json", tmp_path / "kept.sqlite"
    rest = ["--url", server.url, "--model", "m", "--cache", str(kept), "--price", "1", "10", "--tries", "1"]
    assert command.main(["rewrite", "--labels", str(labels), "--out", str(out), *rest]) == 0
    written = json.loads(out.read_text())
    assert [entry["image"] for entry in written] == ["a.jpg", "b.jpg"]
    assert written[0]["caption"] == GOOD
    said = capsys.readouterr().out
    assert "1 by the model, 0 by the cache, 1 by the grammar (every text failed its checks: 1)" in said
    assert "400 + 40 tokens, cost 0.0008" in said
