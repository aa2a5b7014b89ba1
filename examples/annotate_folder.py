"""A folder of videos, with files that are done skipped.    python examples/annotate_folder.py FOLDER OUTPUT"""

import sys

import streamfer

report = streamfer.annotate_folder(sys.argv[1], sys.argv[2], captions="changes", overlay=True, blur_faces=True)
print(f"{len(report.done)} done now, {len(report.skipped)} before, {len(report.failed)} failed")
for failed in report.failed:
    print(failed.source_id, failed.error)
