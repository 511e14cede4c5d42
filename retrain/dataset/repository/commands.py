"""Git and DVC as child processes: a known environment, and their failures in our words."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from retrain.dataset.repository.disk import not_writable, storage_full
from retrain.dataset.repository.folder_lock import FolderLock
from retrain.environment import switches
from retrain.errors import Conflict, RetrainError, Unavailable

_GIT_SETTINGS = {
    "user.name": "Retrain",
    "user.email": "retrain@localhost",
    "safe.directory": "*",
    # A version that is said to exist must survive a power cut.
    "core.fsync": "all",
    "core.hooksPath": os.devnull,
    "core.autocrlf": "false",
    "commit.gpgSign": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
}
# Set while a Git hook runs, these would point our commands at the caller's repository.
_GIT_LOCATIONS = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
)
# The checksums that boto adds by default break large objects on servers other than AWS: rclone gives back that of a
# part for the whole. What arrives is checked by its digest.
_PLAIN_S3 = {
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
}
_DVC_BUSY = "Unable to acquire lock"
_DVC_PATIENCE_S = 60.0
_FULL = ("No space left", "Disk quota exceeded", "disk is full", "Out of diskspace")
_TOO_LITTLE_BYTES = 32 * 1024


class Commands:
    """Runs Git and DVC in one repository. Children inherit the lock, see `FolderLock`."""

    def __init__(self, folder: Path, scratch: Path, lock: FolderLock) -> None:
        self._folder, self._scratch, self._lock = folder, scratch, lock

    def git(self, *arguments: str, more: Mapping[str, str] | None = None) -> str:
        """Standard output of a Git command on this repository, never on one around it."""
        located = (f"--git-dir={self._folder / '.git'}", f"--work-tree={self._folder}", *arguments)
        done = self._run(["git", *located], more or {})
        if done.returncode:
            raise self._failure("git", arguments, done)
        return done.stdout.decode()

    def git_bytes(self, *arguments: str) -> bytes | None:
        """Standard output, or None when the command fails (the object asked for is not there)."""
        done = self._run(["git", f"--git-dir={self._folder / '.git'}", *arguments], {})
        return done.stdout if done.returncode == 0 else None

    def clone(self, source: str) -> None:
        """Fill this (empty) folder with a clone."""
        done = self._run(["git", "clone", "-q", "--branch", "main", "--", source, "."], {})
        if done.returncode:
            raise self._failure("git", ("clone", source), done)

    def dvc(self, *arguments: str) -> str:
        """Standard output of a DVC command; waits while somebody's own DVC command holds the repository."""
        deadline = time.monotonic() + _DVC_PATIENCE_S
        while True:
            # -P: a file in the repository must not shadow a module.
            done = self._run([sys.executable, "-P", "-m", "dvc", *arguments], {})
            if done.returncode == 0:
                return done.stdout.decode()
            if _DVC_BUSY not in _said(done) or time.monotonic() > deadline:
                raise self._failure("dvc", arguments, done)
            time.sleep(1)

    def _run(self, command: Sequence[str], more: Mapping[str, str]) -> subprocess.CompletedProcess[bytes]:
        held = self._lock.descriptor
        try:
            return subprocess.run(
                command,
                cwd=self._folder,
                env={**_environment(self._scratch), **more},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                pass_fds=() if held is None else (held,),
            )
        except (FileNotFoundError, PermissionError) as e:
            if not self._folder.is_dir():
                raise Unavailable(f"Cannot run {command[0]}: {self._folder} does not exist.") from e
            raise Unavailable(f"Cannot run {command[0]}: {e.strerror}. Is it installed and on PATH?") from e

    def _failure(
        self, program: str, arguments: Sequence[str], done: subprocess.CompletedProcess[bytes]
    ) -> RetrainError:
        said = _said(done)
        if any(text in said for text in _FULL):
            return storage_full(self._folder)
        if any(text in said for text in ("Read-only file system", "readonly database")):
            return not_writable(self._folder)
        if _DVC_BUSY in said:
            return Conflict(
                f"Another DVC command has been at work in {self._folder} for {_DVC_PATIENCE_S:g} s."
            )
        if _is_full(self._folder):
            return storage_full(self._folder)
        if "Unable to locate credentials" in said:
            return Unavailable(
                f"`{program} {' '.join(arguments[:3])}` found no credentials for the remote of {self._folder}; set "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            )
        last = " ".join(said.split())[-600:] or f"exit status {done.returncode}"
        return Unavailable(f"`{program} {' '.join(arguments[:3])}` failed in {self._folder}: {last}")


def _is_full(folder: Path) -> bool:
    """Git does not always say why it could not write a file."""
    return shutil.disk_usage(folder).free < _TOO_LITTLE_BYTES


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    return done.stderr.decode(errors="replace").partition("\nHaving any troubles?")[0]


def _environment(scratch: Path) -> dict[str, str]:
    settings = {"GIT_CONFIG_COUNT": str(len(_GIT_SETTINGS))}
    for number, (key, value) in enumerate(_GIT_SETTINGS.items()):
        settings |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    environment = {
        **switches(scratch),
        **_PLAIN_S3,
        # DVC asks for the user's name, which a container's numeric user does not have.
        "LOGNAME": "retrain",
        **os.environ,
        **settings,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C.UTF-8",
    }
    return {name: value for name, value in environment.items() if name not in _GIT_LOCATIONS}
