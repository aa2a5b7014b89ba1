"""`python -m streamfer_train.mini images|clips|export`: train the built-in mini model."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from streamfer.errors import StreamferError


def main(arguments: list[str] | None = None) -> int:
    """Run one stage; a user error is one line and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m streamfer_train.mini", description=__doc__)
    parser.add_argument("stage", choices=["images", "clips", "export"])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds fer2013/, faces/, blendshapes/")
    parser.add_argument("--out", type=Path, default=Path("runs/mini"), help="checkpoints (resumed when present)")
    parser.add_argument("--to", type=Path, default=Path("mini.safetensors"), help="weights file that export writes")
    parser.add_argument("--threads", type=_count, default=1, help="CPU threads (default 1)")
    parser.add_argument("--epochs", type=_count, help="epochs of stage images, instead of the recipe's own")
    options = parser.parse_args(arguments)
    try:
        _run(options)
    except StreamferError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _run(options: argparse.Namespace) -> None:
    # Heavy imports wait until the arguments are known to be good.
    import torch

    from streamfer_train.mini import clips, data, export, images

    torch.set_num_threads(options.threads)
    corpus = data.load(options.data)
    if options.stage == "images":
        recipe = images.ImageRecipe(**({"epochs": options.epochs} if options.epochs else {}))
        images.train(corpus, recipe, options.out)
    elif options.stage == "clips":
        tower, _ = export.read_images(options.out, len(corpus.mirror))
        model = clips.ClipModel(clips.ClipRecipe())
        model.dfer.image_encoder.load_state_dict(tower.image_encoder.state_dict())
        features = clips.training_features(tower, corpus, clips.ClipRecipe())
        clips.train(model, features, clips.ClipRecipe(), options.out)
    else:
        today = datetime.now(tz=UTC).date().isoformat()
        described = export.export(options.out, corpus, options.data, options.to, today)
        sys.stdout.write(json.dumps(described.train["metrics"], indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
