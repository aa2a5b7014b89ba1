"""Text metrics against values worked out by hand, and what captions mention against labels."""

from __future__ import annotations

import json
import math
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from streamfer.captions.checks import contradictions, repeats, repetition
from streamfer.captions.reading import read
from streamfer.errors import ConfigError
from streamfer_train.captions.grammar import describe
from streamfer_train.captions.labels import FaceLabels
from streamfer_train.metrics import text
from streamfer_train.metrics.agreement import evaluate, most_frequent_caption
from streamfer_train.metrics.published import beside


def test_meteor_without_synonyms_by_hand() -> None:
    nothing = text.NO_SYNONYMS
    # Three of four words match in one chunk: P = 1, R = 3/4, F = P R / (0.9 P + 0.1 R), penalty 0.5 (1/3)^3.
    fmean = 1 * 0.75 / (0.9 * 1 + 0.1 * 0.75)
    wanted = fmean * (1 - 0.5 * (1 / 3) ** 3)
    assert text.meteor("The lips part.", ["the lips part slightly"], nothing) == pytest.approx(wanted)
    # The stem stage ties "parts" to "parted".
    assert text.meteor("lips parts", ["lips parted"], nothing) > text.meteor("lips open", ["lips parted"], nothing)
    assert text.meteor("x", ["y", "the lips part"], nothing) == 0.0


def test_meteor_says_which_stages_took_part() -> None:
    stages, _ = text.meteor_stages()
    assert stages in ("exact, stem", "exact, stem, synonym")
    report = text.score(["a b"], [["a b"]])
    assert f"meteor ({stages})" in report
    assert ("lacks WordNet's synonyms" in report.get("remark", "")) == ("synonym" not in stages)


def test_rouge_takes_the_best_reference() -> None:
    # Longest common subsequence "the lips are" of 4 and 4 words.
    assert text.rouge_l("The lips are parted", ["nothing here", "the lips are pressed"]) == pytest.approx(0.75)


def test_bleu_of_equal_texts_with_uneven_references() -> None:
    captions = ["the inner brows are raised a little", "the lips are pressed together firmly"]
    value, signature = text.bleu(captions, [[captions[0], "other text here is different"], [captions[1]]])
    assert value == pytest.approx(1.0)
    assert "version" in signature


def test_a_report_and_what_it_refuses() -> None:
    report = text.score(["the lips are parted"], [["the lips are parted"]])
    assert report["rouge_l"] == pytest.approx(1.0)
    assert report["count"] == 1
    assert not any("similarity" in name for name in report)
    with pytest.raises(ConfigError, match="2 captions for 1 pictures"):
        text.score(["a", "b"], [["a"]])
    with pytest.raises(ConfigError, match="picture 1: has no reference"):
        text.score(["a"], [[]])


def test_similarity_by_a_local_encoder(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = {word: n for n, word in enumerate(["[PAD]", "[UNK]", "the", "lips", "are", "parted", "brows", "raised"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", model_max_length=32
    ).save_pretrained(tmp_path)
    config = BertConfig(vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    BertModel(config).save_pretrained(tmp_path)
    same, other = text.embedding_similarity(
        ["the lips are parted", "brows raised"],
        [["brows", "the lips are parted"], ["the lips are parted"]],
        text.folder_encoder(tmp_path),
    )
    assert same == pytest.approx(1.0, abs=1e-5)  # the longer neighbour's padding must not matter
    assert other < 0.999
    with pytest.raises(ConfigError, match="no transformers model there"):
        text.folder_encoder(tmp_path / "none")


def test_similarity_by_an_endpoint() -> None:
    """A server that gives each text the counts of two letters, in another order than asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert (self.path, asked["model"]) == ("/v1/embeddings", "text-embedding-ada-002")
            rows = [{"index": n, "embedding": [one.count("a"), one.count("b")]} for n, one in enumerate(asked["input"])]
            content = json.dumps({"data": rows[::-1]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        encode = text.endpoint_encoder(f"http://127.0.0.1:{server.server_address[1]}", "text-embedding-ada-002")
        found = text.embedding_similarity(["aab"] * 20, [["b", "aaaabb"]] * 20, encode)
        assert found == pytest.approx([1.0] * 20)
        report = text.score(["aab"], [["bb"]], encode, "ada")
        assert report["similarity (ada)"] == pytest.approx(1 / math.sqrt(5), abs=1e-4)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    with pytest.raises(ConfigError, match="cannot be reached"):
        encode(["a"])


def test_published_values_stand_below_ones_own() -> None:
    table = beside("captions", "raf-au", {"meteor": 0.2, "rouge_l": 0.25, "ada": None})
    assert table.splitlines()[0] == "| | meteor | rouge_l | ada |"
    assert "| **this model** | 0.2 | 0.25 | – |" in table
    assert "| Exp-BLIP (ViT-G, 6.7B) | 0.184 | 0.229 | 84.65 |" in table
    assert beside("captions", "affectnet", {}) == beside("captions", None, {}) == ""
    assert "| Q-Former (AU-BLIP) | 66.6 |" in beside("probes", "bp4d", {"score": 60.0})


SMILE, FROWN = FaceLabels.of([6, 12], "happy"), FaceLabels.of([4, 15], "sad")


def test_mentions_are_counted() -> None:
    report = evaluate(["The cheeks are raised and the nose is wrinkled.", "The brows are lowered; this is sad."],
                      [SMILE, FROWN])  # fmt: skip
    # Hits 6 and 4, false 9, missed 12 and 15.
    assert (report.micro.precision, report.micro.recall) == pytest.approx((2 / 3, 1 / 2))
    assert report.micro.f1 == pytest.approx(4 / 7)
    assert report.macro_f1 == pytest.approx((1 + 1 + 0 + 0) / 4)
    assert report.emotion_agreement == 0.5
    assert report.units[12].recall == 0.0


def test_a_perfect_captioner_is_perfect() -> None:
    faces = [SMILE, FROWN, FaceLabels.of([1, 2, 5, 25, 26], "surprise"), FaceLabels.of([])]
    report = evaluate([describe(face, number) for number, face in enumerate(faces)], faces)
    assert (report.micro.f1, report.macro_f1, report.emotion_agreement) == (1.0, 1.0, 1.0)
    assert (report.contradictions, report.repetitions) == (0.0, 0.0)


def test_uncoded_units_do_not_count() -> None:
    partly = FaceLabels(frozenset({12}), (), {}, frozenset({12, 4}))
    assert evaluate(["A smile with a wrinkled nose."], [partly]).micro.precision == 1.0
    jaw = FaceLabels.of([25, 26])
    assert evaluate(["The jaw is dropped."], [jaw]).micro.recall == 0.5
    with pytest.raises(ConfigError, match="0 captions"):
        evaluate([], [])


@pytest.mark.parametrize(
    ("caption", "labels", "part"),
    [
        ("The lips are parted. The lips are not parted.", None, "affirms and denies unit 25"),
        ("The eyes are closed and the upper lids are raised.", None, "has both unit 5"),
        ("The person is happy. The person is not happy.", None, "affirms and denies happiness"),
        ("The face is neutral and angry.", None, "calls the face neutral and speaks of anger"),
        ("There is no smile.", SMILE, "denies unit 12"),
        ("The person looks sad.", SMILE, "speaks of sadness where the label is happiness"),
        ("The eyes are closed.", FaceLabels.of([5]), "names the opposite"),
    ],
)
def test_contradictions(caption: str, labels: FaceLabels | None, part: str) -> None:
    assert any(part in found for found in contradictions(read(caption), labels))


def test_what_labels_themselves_combine_is_no_contradiction() -> None:
    assert list(contradictions(read("The lips are pressed and parted."), FaceLabels.of([24, 25]))) == []
    assert list(contradictions(read("The nose is wrinkled."), SMILE)) == []  # wrong, yet not contradictory


def test_repetition() -> None:
    loop = "the lips are pressed together and the brows are low " * 3
    assert repeats(loop)
    assert repetition(loop, 5) > 0.5
    assert repeats("The chin is raised. The chin is raised.")
    assert repeats("the the chin is raised")
    assert not repeats("The inner ends of the eyebrows are raised and the outer ends of the eyebrows are raised.")
    assert repetition("too short") == 0.0


def test_the_floor_is_the_best_constant_caption() -> None:
    faces = [FaceLabels.of([12, 25], "happy")] * 3 + [FaceLabels.of([12, 4], "sad")]
    floor = most_frequent_caption(faces)
    assert (floor.action_units, floor.emotions) == (frozenset({12, 25}), ("happiness",))
    # Of equally frequent emotions the first counts, in every process.
    tied = [FaceLabels.of([12], name) for name in ("sad", "happy", "anger")]
    assert most_frequent_caption(tied).emotions == ("sadness",)
