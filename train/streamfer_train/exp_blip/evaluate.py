"""`streamfer evaluate exp-blip`: what a captioner's captions are worth, and what its features know."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from streamfer.captions.protocol import Captioner
from streamfer.extras import needs
from streamfer.files import write_text
from streamfer_train.captions.grammar import describe
from streamfer_train.exp_blip.captioned import LabelledPicture, caption_all, read_labelled, references_for
from streamfer_train.exp_blip.probing import probes
from streamfer_train.metrics.agreement import evaluate, most_frequent_caption
from streamfer_train.metrics.published import beside


def run(options: argparse.Namespace) -> None:
    """Caption, score, print and store."""
    pictures, learned_from = read_labelled(options.labels, options.images), read_learned_from(options)
    report = measure(options, pictures)[0] | probes(options, learned_from, pictures)
    finish(options, report, readable(report) + "\n" + published_beside(report, options.beside))


def finish(options: argparse.Namespace, report: dict[str, Any], shown: str) -> None:
    """Store a report, print what is to be seen of it, and where it is."""
    write_text(options.out / "report.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    print(f"{shown}{options.out / 'report.json'}")


def read_learned_from(options: argparse.Namespace) -> list[LabelledPicture]:
    """Return the pictures that probes are to learn from; none where no list was given."""
    if options.probe_train is None:
        return []
    return read_labelled(options.probe_train, options.probe_images or options.images)


def captioner_of(options: argparse.Namespace) -> Captioner:
    """Return the captioner that the options ask for; a ModelError where it cannot be loaded."""
    from streamfer.captions import load_captioner

    asked = ("device", "precision", "num_beams", "max_new_tokens", "batch")
    return load_captioner(options.captioner, **{name: getattr(options, name) for name in asked})


def measure(options: argparse.Namespace, pictures: list[LabelledPicture]) -> tuple[dict[str, Any], Captioner]:
    """Return scores of a captioner's captions as plain values, and the captioner."""
    references, source = references_for(pictures, options.references, variants=options.variants, seed=options.seed)
    encode, model = encoder_of(options), captioner_of(options)
    captions = caption_all(model, pictures, options.out / "captions.jsonl", options.batch)
    report = {
        "captioner": model.info.name,
        "digest": model.info.digest,
        "pictures": len(pictures),
        "references": source,
        **scores(captions, references, pictures, encode, options.encoder or ""),
    }
    return report, model


def encoder_of(options: argparse.Namespace) -> Any:
    """Return what makes vectors of texts, where that is asked for."""
    from streamfer_train.metrics.text import endpoint_encoder, folder_encoder

    if options.encoder is None:
        return None
    if options.encoder_url:
        return endpoint_encoder(options.encoder_url, options.encoder)
    return folder_encoder(Path(options.encoder))


def scores(
    captions: list[str],
    references: list[list[str]],
    pictures: list[LabelledPicture],
    encode: Any = None,
    encoder: str = "",
) -> dict[str, Any]:
    """Return text scores, agreement with the labels, and the floor: one caption of the most frequent units for all."""
    with needs("train", "scoring texts"):
        from streamfer_train.metrics.text import score
    labels = [picture.labels for picture in pictures]
    floor = describe(most_frequent_caption(labels), "floor")
    return {
        "text": score(captions, references, encode, Path(encoder).name),
        "agreement": asdict(evaluate(captions, labels)),
        "floor": {"caption": floor, **asdict(evaluate([floor] * len(labels), labels))},
    }


def published_beside(report: dict[str, Any], dataset: str | None) -> str:
    """Return tables of one's own numbers above the published ones of a data set; empty where there are none."""
    text, probes = report["text"], report.get("probes", {})
    found = {name.partition(" ")[0]: value for name, value in text.items()}
    similar = found.get("similarity")
    own = {"meteor": found["meteor"], "rouge_l": text["rouge_l"], "ada": None if similar is None else 100 * similar}
    value = probes.get("qformer", {}).get("emotion_accuracy" if dataset == "affectnet" else "mean_f1")
    tables = [
        ("captions", beside("captions", dataset, own)),
        ("linear probe", beside("probes", dataset, {"score": value and round(100 * value, 1)}) if probes else ""),
    ]
    return "".join(f"\npublished on {dataset}, {what}:\n\n{table}" for what, table in tables if table)


def readable(report: dict[str, Any]) -> str:
    """Return a report as lines for the terminal."""
    lines = [f"{report['captioner']}: {report['pictures']} pictures; references: {report['references']}"]
    lines += [f"  {name}: {value}" for name, value in report["text"].items()]
    for name in ("agreement", "floor"):
        part = report[name]
        micro = part["micro"]
        emotion = "none labelled" if part["emotion_agreement"] is None else f"{part['emotion_agreement']:.3f}"
        what = "captions" if name == "agreement" else "floor (most frequent units)"
        lines.append(
            f"  {what}: mentions P {micro['precision']:.3f} R {micro['recall']:.3f} F1 {micro['f1']:.3f}, "
            f"macro F1 {part['macro_f1']:.3f}, emotion {emotion}, contradictions {part['contradictions']:.3f}, "
            f"repetition {part['repetitions']:.3f}"
        )
    for name in ("vision", "qformer"):
        if name in report.get("probes", {}):
            ours = report["probes"][name]
            for way, scores_ in ((f"probe on {name}", ours), ("  as published", ours["as_published"])):
                found = {key: value for key, value in scores_.items() if not isinstance(value, dict)}
                lines.append(f"  {way}: " + ", ".join(f"{key} {value}" for key, value in found.items()))
    return "\n".join(lines)
