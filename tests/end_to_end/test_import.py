"""What ``import streamfer`` brings, costs and says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import streamfer


def test_the_export_list() -> None:
    names = vars(streamfer)["__all__"]
    assert sorted(names) == [
        "Annotation",
        "Config",
        "Record",
        "Session",
        "StreamferError",
        "UserError",
        "annotate",
        "annotate_folder",
        "ask",
        "list_models",
        "load_model",
        "stream",
        "subscribe",
        "subscribe_async",
    ]
    for name in names:
        assert getattr(streamfer, name).__name__ in (name, "Subscription", "AsyncSubscription")
        assert getattr(streamfer, name).__doc__
    assert set(dir(streamfer)) == set(names)
    assert not hasattr(streamfer, "no_such_thing")
    assert streamfer.__version__


def test_an_import_loads_nothing_heavy() -> None:
    script = (
        "import sys, streamfer; print(sorted({'torch', 'av', 'cv2', 'numpy', 'redis', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_library_says_nothing_and_configures_nothing(face_film: Path, tiny_model: Path) -> None:
    script = f"""
import logging, streamfer
annotation = streamfer.annotate({str(face_film)!r}, model={str(tiny_model)!r}, detector="lbp", fps=4)
assert len(annotation.clips) and not logging.getLogger().handlers
assert [type(one) for one in logging.getLogger("streamfer").handlers] == [logging.NullHandler]
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
