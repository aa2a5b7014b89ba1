"""How close captions come to reference texts: METEOR, ROUGE-L, BLEU and similarity of sentence embeddings.

Nothing is downloaded: METEOR's synonyms need NLTK's WordNet data (``python -m nltk.downloader wordnet``, or a folder of
theirs in ``NLTK_DATA``), and without them only exact and stem matches count, which the report says; embeddings come
from a transformers model in a local folder, or from an endpoint.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from streamfer.captions.chat import ChatClient, ChatError, endpoint_url, key_for
from streamfer.errors import ConfigError

#: From texts to their vectors (N, D).
Encoder = Callable[[Sequence[str]], Tensor]
#: Texts at a time.
_FOLDER_BATCH, _ENDPOINT_BATCH = 64, 16


def score(
    captions: Sequence[str], references: Sequence[Sequence[str]], encode: Encoder | None = None, encoder: str = ""
) -> dict[str, Any]:
    """Score captions against the references of the same pictures; with ``encode`` by embeddings too.

    Values are means over captions in 0-1, but BLEU, which is of the whole corpus. Of several references the best
    counts for METEOR, ROUGE-L and similarity, as in Exp-BLIP. Names say which of METEOR's matching stages took part.

    Raises:
        ConfigError: nothing to score, numbers differ, or a caption has no reference.
    """
    if not captions or len(captions) != len(references):
        raise ConfigError(f"{len(captions)} captions for {len(references)} pictures with references; give one for each")
    for number, texts in enumerate(references, start=1):
        if not texts:
            raise ConfigError(f"picture {number}: has no reference text; leave it out, or write one")
    stages, words = meteor_stages()
    both = list(zip(captions, references, strict=True))
    bleu_value, signature = bleu(captions, references)
    values: dict[str, Any] = {
        "count": len(both),
        f"meteor ({stages})": round(sum(meteor(text, several, words) for text, several in both) / len(both), 4),
        "rouge_l": round(sum(rouge_l(text, several) for text, several in both) / len(both), 4),
        "bleu": round(bleu_value, 4),
        "bleu_signature": signature,
    }
    if "synonym" not in stages:
        values["remark"] = "METEOR lacks WordNet's synonyms, which published values have: nltk.downloader wordnet"
    if encode is not None:
        close = embedding_similarity(captions, references, encode)
        values[f"similarity ({encoder})"] = round(sum(close) / len(both), 4)
    return values


def tokens(text: str) -> list[str]:
    """Return the words of a text in lower case; punctuation is dropped.

    >>> tokens("The lips, it seems, aren't parted.")
    ['the', 'lips', 'it', 'seems', "aren't", 'parted']
    """
    return re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", text.lower())


#: Stands in where WordNet's data are not installed.
NO_SYNONYMS: Any = SimpleNamespace(synsets=lambda word: ())  # noqa: ARG005


@cache
def meteor_stages() -> tuple[str, Any]:
    """Return the matching stages that can be done here, in words, and the source of synonyms."""
    from nltk.corpus import wordnet

    try:
        wordnet.ensure_loaded()
    except LookupError:
        return "exact, stem", NO_SYNONYMS
    return "exact, stem, synonym", wordnet


def meteor(caption: str, references: Sequence[str], synonyms: Any) -> float:
    """Return METEOR against the best reference, 0-1, by NLTK (Banerjee and Lavie 2005, its default parameters)."""
    from nltk.translate.meteor_score import meteor_score

    return float(meteor_score([tokens(reference) for reference in references], tokens(caption), wordnet=synonyms))


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)


def rouge_l(caption: str, references: Sequence[str]) -> float:
    """Return the F-measure of the longest common subsequence of stems against the best reference, 0-1."""
    return float(_rouge().score_multi(list(references), caption)["rougeL"].fmeasure)


def bleu(captions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, str]:
    """Return corpus BLEU-4 in 0-1 by sacreBLEU, and its signature."""
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(lowercase=True)
    most = max(map(len, references))
    # sacreBLEU wants one list a reference position; pictures may have fewer references than others.
    columns: Any = [[r[place] if place < len(r) else None for r in references] for place in range(most)]
    return float(metric.corpus_score(list(captions), columns).score) / 100, str(metric.get_signature())


def embedding_similarity(captions: Sequence[str], references: Sequence[Sequence[str]], encode: Encoder) -> list[float]:
    """Return the cosine of each caption's embedding with the nearest of its references', -1 to 1."""
    vectors = F.normalize(encode([*captions, *(text for several in references for text in several)]), dim=-1)
    own, *others = vectors.split([len(captions), *map(len, references)])
    return [float((other @ one).max()) for one, other in zip(own, others, strict=True)]


def folder_encoder(folder: Path) -> Encoder:
    """Return the encoder of a transformers folder, the mean over its last states; a ConfigError where it holds none."""
    from transformers import AutoModel, AutoTokenizer

    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder}: no transformers model there (config.json is absent); name its folder")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ConfigError(f"{folder}: cannot be loaded as a text encoder ({type(error).__name__})") from error

    def encode(texts: Sequence[str]) -> Tensor:
        vectors = []
        for start in range(0, len(texts), _FOLDER_BATCH):
            inputs = tokenizer(
                list(texts[start : start + _FOLDER_BATCH]), return_tensors="pt", padding=True, truncation=True
            )
            with torch.inference_mode():
                states_BLD = model(**inputs).last_hidden_state
            mask_BL1 = inputs["attention_mask"].unsqueeze(-1).to(states_BLD.dtype)
            vectors.append((states_BLD * mask_BL1).sum(1) / mask_BL1.sum(1).clamp(min=1))
        return torch.cat(vectors)

    return encode


def endpoint_encoder(url: str, model: str) -> Encoder:
    """Return the text encoder behind an OpenAI-compatible endpoint; ``text-embedding-ada-002`` gives Ada-sim.

    Raises:
        ConfigError: the address is no HTTP address. Encoding raises it where the endpoint refuses.
    """
    address = endpoint_url(url)
    client = ChatClient(address, model, key=key_for(address))

    def encode(texts: Sequence[str]) -> Tensor:
        try:
            parts = [
                client.embed(texts[start : start + _ENDPOINT_BATCH]) for start in range(0, len(texts), _ENDPOINT_BATCH)
            ]
            return torch.tensor([vector for part in parts for vector in part], dtype=torch.float32)
        except (ChatError, ValueError, TypeError) as error:
            raise ConfigError(f"--encoder-url: {error}") from error

    return encode
