"""The program that downloads official weights: `python -m retrain.training.weights_download NAME FOLDER`.

It ends with status 1 and the reason as JSON on the last line when the file cannot be had.
"""
# ruff: noqa: E402 - Ultralytics reads its switches while it is imported, so these are set first.

from retrain import environment

environment.prepare()

import json
import sys
from pathlib import Path

from ultralytics.utils.downloads import attempt_download_asset


def main() -> int:
    """Status 0 once FOLDER/NAME is there."""
    target = Path(sys.argv[2]) / sys.argv[1]
    try:
        attempt_download_asset(target, progress=False, retry=1)
    except Exception as error:
        print(json.dumps({"error": (str(error).splitlines() or [type(error).__name__])[0]}))
        return 1
    if not target.is_file():
        print(json.dumps({"error": "the download gave no file"}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
