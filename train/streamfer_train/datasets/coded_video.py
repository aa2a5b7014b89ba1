"""BP4D, DISFA and GFT: videos whose frames carry codes of action units.

Every reader raises ConfigError where a folder is missing, RecordError where a code file is malformed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2

from streamfer.errors import ConfigError, RecordError
from streamfer.video.locate import SourceSpec
from streamfer.video.readers import PyAvReader
from streamfer_train.captions.files import Entry
from streamfer_train.captions.labels import FaceLabels
from streamfer_train.datasets.samples import Sample, need_folder, occurrence, read_lines, read_table
from streamfer_train.recipes.run_folder import writing

BP4D_UNITS = (1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24)
DISFA_UNITS = (1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26)
GFT_UNITS = (1, 2, 4, 6, 10, 12, 14, 15, 23, 24)
BP4D_EXPECTS = "AUCoding/AU_OCC/F001_T1.csv ... and Sequences/F001/T1/<frame>.jpg"
DISFA_EXPECTS = "ActionUnit_Labels/SN001/SN001_au1.txt ... and frames/SN001/<frame>.jpg (--cut-films makes them)"
GFT_EXPECTS = "labels/<person>.csv with columns Frame, AU1, AU2 ... and images/<person>/<frame>.jpg"
#: A unit of DISFA counts as present from this intensity (B) on, as in the literature.
DISFA_PRESENT = 2
_CHUNK = 16
_PICTURES = {".jpg", ".jpeg", ".png"}


def read_bp4d(root: Path) -> Iterator[Sample]:
    """Read BP4D's occurrence codes: 1 present, 0 absent, 9 not coded."""
    for path in _code_files(need_folder(root / "AUCoding" / "AU_OCC", BP4D_EXPECTS), BP4D_EXPECTS):
        subject, _, task = path.stem.partition("_")
        pictures = _pictures(root, Path("Sequences") / subject / task)
        for row in read_table(path, BP4D_EXPECTS, tuple(map(str, BP4D_UNITS))):
            frame = row.integer(next(iter(row.fields)))
            labels = occurrence(row, {unit: str(unit) for unit in BP4D_UNITS}, 9)
            yield Sample(pictures[frame], subject, labels, task, frame)


def read_disfa(root: Path) -> Iterator[Sample]:
    """Read DISFA's intensities 0-5; a unit is present from intensity 2 on."""
    for folder in sorted(need_folder(root / "ActionUnit_Labels", DISFA_EXPECTS).iterdir()):
        if not folder.is_dir():
            continue
        subject = folder.name
        pictures = _pictures(root, Path("frames") / subject)
        strengths: dict[int, dict[int, int]] = {}
        for unit in DISFA_UNITS:
            for line, place in read_lines(folder / f"{subject}_au{unit}.txt", DISFA_EXPECTS):
                number, _, strength = line.partition(",")
                entry = Entry({"frame": number.strip(), "intensity": strength.strip()}, place)
                value = entry.integer("intensity")
                if not 0 <= value <= 5:
                    raise RecordError(f"{place}: field intensity is {value}, not 0-5; correct it")
                strengths.setdefault(entry.integer("frame"), {})[unit] = value
        for frame, found in sorted(strengths.items()):
            present = {unit: value for unit, value in found.items() if value >= DISFA_PRESENT}
            labels = FaceLabels(frozenset(present), (), present, frozenset(found))
            yield Sample(pictures[frame], subject, labels, "", frame)


def cut_disfa(root: Path, progress: Callable[[int, int], None] = lambda _done, _total: None) -> int:
    """Cut DISFA's films of the left camera into the frames that :func:`read_disfa` reads; returns how many films.

    Frames count from 1, as the label files do. A folder of frames appears whole or not at all; those there are kept.

    Raises:
        ConfigError: no film of the left camera is there.
        SourceError: a film cannot be read.
        OutputError: frames cannot be written.
    """
    films = sorted((root / "Videos_LeftCamera").glob("LeftVideoSN*.avi"))
    if not films:
        raise ConfigError(f"{root}: no Videos_LeftCamera/LeftVideoSN001_comp.avi ...; get DISFA's films of that camera")
    for done, film in enumerate(films, start=1):
        found = re.search(r"SN\d+", film.stem)
        target = root / "frames" / (found.group() if found else film.stem)
        if not target.exists():
            partial = target.with_name(f".partial-{target.name}")
            with writing(partial):
                partial.mkdir(parents=True, exist_ok=True)
            with PyAvReader(SourceSpec(url=str(film), source_id=film.name, kind="file")) as reader:
                for start in range(0, len(reader), _CHUNK):
                    frames = reader.read(range(start, min(start + _CHUNK, len(reader))))
                    for number, picture in enumerate(frames, start=start + 1):
                        _, data = cv2.imencode(".jpg", picture[:, :, ::-1], (cv2.IMWRITE_JPEG_QUALITY, 95))
                        with writing(partial):
                            data.tofile(partial / f"{number:05d}.jpg")
            partial.replace(target)
        progress(done, len(films))
    return len(films)


def read_gft(root: Path) -> Iterator[Sample]:
    """Read GFT's occurrence codes: 1 present, 0 absent, -999 or 9 not coded."""
    columns = {unit: f"AU{unit}" for unit in GFT_UNITS}
    for path in _code_files(need_folder(root / "labels", GFT_EXPECTS), GFT_EXPECTS):
        pictures = _pictures(root, Path("images") / path.stem)
        for row in read_table(path, GFT_EXPECTS, ("Frame", *columns.values())):
            frame = row.integer("Frame")
            yield Sample(pictures[frame], path.stem, occurrence(row, columns, 9, -999), "", frame)


def _code_files(folder: Path, expects: str) -> Iterator[Path]:
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise ConfigError(f"{folder}: holds no .csv file; expected is {expects}")
    yield from files


def _pictures(root: Path, folder: Path) -> defaultdict[int, Path]:
    """Pictures of a folder by frame number, padded or not; a frame without one gets a name that is not there."""
    found = defaultdict[int, Path](lambda: folder / "missing")
    for path in (root / folder).iterdir() if (root / folder).is_dir() else ():
        digits = re.search(r"(\d+)$", path.stem)
        if path.suffix.lower() in _PICTURES and digits:
            found[int(digits.group())] = folder / path.name
    return found
