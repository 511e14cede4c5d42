"""Every version at once between this machine and the remote."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from retrain.dataset.repository.commands import Commands
from retrain.dataset.repository.folder_lock import FolderLock
from retrain.errors import PostConditionFailed


class Transfer:
    """DVC in a scratch workspace that shows all versions side by side, over the same cache.

    DVC's own `--all-tags` transfers only one revision of each path (treeverse/dvc#10617, seen in 3.67).

    Args:
        dvc_folder: the repository's `.dvc`; gives the remote and the cache.
        pointers: for each version, name and text of its `.dvc` files.
    """

    def __init__(
        self, dvc_folder: Path, scratch: Path, lock: FolderLock, pointers: Mapping[str, Mapping[str, str]]
    ) -> None:
        folder = scratch / "every-version"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / ".dvc").mkdir(parents=True)
        shutil.copyfile(dvc_folder / "config", folder / ".dvc" / "config")
        local = f"[core]\n    no_scm = true\n[cache]\n    dir = {dvc_folder / 'cache'}\n"
        (folder / ".dvc" / "config.local").write_text(local, encoding="utf-8")
        for version, files in pointers.items():
            (folder / version).mkdir()
            for name, text in files.items():
                (folder / version / name).write_text(text, encoding="utf-8")
        self._run = Commands(folder, scratch, lock)

    def push(self) -> None:
        self._run.dvc("push")
        # What only the remote has is no concern of a clone that pulled a part.
        self._require_in_sync(tolerated="deleted")

    def fetch(self) -> None:
        self._run.dvc("fetch")
        # Versions that were made here and not pushed yet.
        self._require_in_sync(tolerated="new")

    def _require_in_sync(self, tolerated: str) -> None:
        states = json.loads(self._run.dvc("status", "--cloud", "--json") or "{}")
        if differing := {name: state for name, state in states.items() if state != tolerated}:
            name, state = min(differing.items())
            where = "on the remote" if state == "new" else "on this machine"
            raise PostConditionFailed(f"{len(differing)} files are still not {where}, first {name}.")
