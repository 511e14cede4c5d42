"""The one adapter around Git and DVC.

Both run as programs: their command lines are their stable interfaces, a killed caller cannot leave their state in
our memory, and a version costs one DVC start (about 1 s). A *pointer* is the small file Git keeps in place of what
DVC tracks; the bytes are in DVC's cache, named by their MD5.
"""

import json
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from configparser import ConfigParser
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from retrain.dataset.repository.commands import Commands
from retrain.dataset.repository.disk import disk_errors, storage_full, write_durably
from retrain.dataset.repository.folder_lock import FolderLock
from retrain.dataset.repository.transfer import Transfer
from retrain.errors import BadInput, Conflict, NotFound, StorageFull

_BRANCH = "refs/heads/main"
_THEIRS = "refs/origin"
_NOTHING = "0" * 40
_CONFIG = b"""[core]
    analytics = false
    check_update = false
    autostage = false
[cache]
    type = "hardlink,copy"
"""


@dataclass(frozen=True)
class Tag:
    """A name of a commit.

    Attributes:
        created_at: when the commit was made, in seconds since the epoch.
    """

    name: str
    commit: str
    created_at: float
    subject: str


class DvcRepository:
    """A Git repository whose large files are tracked by DVC, linear in history, with a tag per version.

    The tag is the commit point: it is created after everything it names is stored, and in one step. Readers need
    no lock, since tags and cached files never change.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.scratch = self.folder / ".work"
        self._lock = FolderLock(self.scratch / "lock")
        self._run = Commands(self.folder, self.scratch, self._lock)

    @classmethod
    def clone(cls, source: str, folder: Path) -> "DvcRepository":
        """A copy of another repository's history; `pull` then brings the data."""
        repository = cls(folder)
        folder = repository.folder
        arriving = folder.with_name(f".{folder.name}.arriving")
        if not repository._exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(arriving, ignore_errors=True)
            arriving.mkdir()
            cls(arriving)._run.clone(source)
            arriving.replace(folder)
        return repository

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only one at work here; first tidies up after a process that was killed."""
        with self._lock.hold() as interrupted, disk_errors(self.folder):
            if interrupted:
                self._recover()
            try:
                yield
            except StorageFull as error:
                raise storage_full(self.folder) from error

    def init(self, now: float) -> None:
        """Make the repository; does nothing when it is there.

        Raises:
            BadInput: the folder holds something else.
        """
        if self._exists():
            return
        with self.locked():
            if self._exists():
                return
            known = {".git", ".dvc", ".dvcignore", ".gitignore", self.scratch.name}
            if other := sorted({path.name for path in self.folder.iterdir()} - known):
                raise BadInput(
                    f"{self.folder} is not empty (it has {other[0]!r}); choose a folder for datasets only."
                )
            self._run.git("init", "-q", "--initial-branch=main")
            self._run.dvc("init", "-f")
            write_durably(self.folder / ".dvc" / "config", _CONFIG)
            write_durably(self.folder / ".gitignore", f"/{self.scratch.name}\n".encode())
            self._run.git("add", "--", ".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore")
            self._advance(self._commit_index("Start of the dataset's history", now))

    def commit(self, large: Sequence[str], small: Sequence[str], message: str, tag: str, now: float) -> str:
        """Track these files or folders as they are now, commit them and create the tag.

        Killed before the tag exists, it left nothing that a reader sees; afterwards, the next holder of the lock
        finishes the rest.

        Args:
            large: left to DVC.
            small: kept by Git itself.

        Raises:
            Conflict: the tag exists.
        """
        with self.locked():
            self.show_newest()
            self._run.dvc("add", *large)
            self._run.git("add", "--", ".gitignore", *small, *(f"{path}.dvc" for path in large))
            commit = self._commit_index(message, now)
            if self.resolve(f"refs/tags/{tag}") is not None:
                raise Conflict(f"Tag {tag} exists already.")
            self._run.git("update-ref", f"refs/tags/{tag}", commit, _NOTHING)
            self._advance(commit)
            return commit

    def record(self, path: str, data: bytes, message: str, now: float) -> None:
        """Change one small file, kept by Git itself, in a commit that is no version."""
        with self.locked():
            self.show_newest()
            write_durably(self.folder / path, data)
            self._run.git("add", "--", path)
            if self._run.git("status", "--porcelain", "--", path):
                self._advance(self._commit_index(message, now))

    def tag(self, name: str, commit: str, *, move: bool = False) -> None:
        """Give a commit another name.

        Raises:
            Conflict: the name is taken and may not move.
        """
        with self.locked():
            if (taken := self.resolve(f"refs/tags/{name}")) == commit:
                return
            if taken is not None and not move:
                raise Conflict(f"Tag {name} exists already, for {taken[:12]}; say so if it shall move.")
            self._run.git("update-ref", f"refs/tags/{name}", commit, taken or _NOTHING)

    def delete_tag(self, name: str) -> None:
        """Forget a name; does nothing when there is none."""
        with self.locked():
            if (taken := self.resolve(f"refs/tags/{name}")) is not None:
                self._run.git("update-ref", "-d", f"refs/tags/{name}", taken)

    def collect_garbage(self) -> tuple[int, int]:
        """Delete what DVC keeps for no tagged version, such as a killed commit leaves.

        Returns:
            How many files, and how many bytes they had.
        """
        with self.locked():
            if not self._exists():
                return 0, 0
            self.show_newest()
            # The workspace counts as in use, and a killed commit may have left its own there.
            self._run.git("checkout", "-q", "-f", "main")
            self._run.dvc("checkout", "-f", "--allow-missing")
            before = self._cached_sizes()
            self._run.dvc("gc", "--all-tags", "--all-branches", "--workspace", "--force", "--quiet")
            gone = before.keys() - self._cached_sizes().keys()
            return len(gone), sum(before[path] for path in gone)

    def tags(self) -> list[Tag]:
        """All tags in the order they were made."""
        if not self._exists():
            return []
        form = "%(refname:strip=2) %(objectname) %(creatordate:unix) %(contents:subject)"
        listed = self._run.git("for-each-ref", "--sort=creatordate", f"--format={form}", "refs/tags")
        rows = (line.split(" ", 3) for line in listed.splitlines())
        return [Tag(name, commit, float(made), subject) for name, commit, made, subject in rows]

    def subjects(self) -> list[str]:
        """First lines of all commits, newest first."""
        return self._run.git("log", "--format=%s", _BRANCH).splitlines()

    def resolve(self, revision: str) -> str | None:
        """The commit a revision names, or None."""
        found = self._run.git_bytes("rev-parse", "-q", "--verify", f"{revision}^{{commit}}")
        return None if found is None else found.decode().strip()

    def read(self, path: str, revision: str) -> bytes:
        """A file at a revision, tracked by DVC or by Git.

        Raises:
            NotFound: no such file at that revision, or its bytes are not on this machine.
        """
        if (pointer := self._pointer(path, revision)) is not None:
            return self._cached(pointer, path).read_bytes()
        plain = self._run.git_bytes("show", f"{revision}:{path}")
        if plain is None:
            if self._run.git_bytes("ls-tree", revision, "--", path):
                raise BadInput(f"{path} at {revision} in {self.folder} is damaged: Git cannot read it.")
            raise NotFound(f"No {path} at {revision} in {self.folder}.")
        return plain

    def listing(self, path: str, revision: str) -> dict[str, Path]:
        """Files of a tracked folder at a revision: name → where the bytes are on this machine.

        Raises:
            NotFound: no such folder at that revision, or its list is not on this machine.
        """
        if (pointer := self._pointer(path, revision)) is None:
            raise NotFound(f"No {path}/ at {revision} in {self.folder}.")
        try:
            entries = json.loads(self._cached(pointer, path).read_bytes())
            return {entry["relpath"]: self._cache_path(entry["md5"]) for entry in entries}
        except (ValueError, TypeError, KeyError) as e:
            raise BadInput(f"The list of {path} at {revision} in {self.folder} is damaged: {e}.") from e

    def checkout(self, revision: str) -> None:
        """Show a revision in the folder; the next commit returns to the newest first."""
        with self.locked():
            if self.resolve(revision) is None:
                raise NotFound(f"No revision {revision!r} in {self.folder}.")
            self._run.git("checkout", "-q", "-f", revision)
            self._run.dvc("checkout", "-f")

    def status(self) -> dict[str, Any]:
        """What in the folder differs from the newest commit; empty when nothing does."""
        with self.locked():
            changed = self._run.git("status", "--porcelain").splitlines()
            return {
                **({"git": changed} if changed else {}),
                **json.loads(self._run.dvc("status", "--json") or "{}"),
            }

    def add_remote(
        self, name: str, url: str, endpoint_url: str | None = None, *, replace: bool = False
    ) -> None:
        """Set where `push` and `pull` go, for every clone. Credentials come from the environment only.

        Raises:
            Conflict: the remote of that name is another place, and is not to be replaced.
        """
        with self.locked():
            self.show_newest()
            place = url if "://" in url else str(Path(url).absolute())
            if (known := self._remotes().get(name, place)) != place and not replace:
                raise Conflict(
                    f"Remote {name} of {self.folder} is {known}. Replace it (--replace), or give the new place another "
                    "name; the last one added is the one that is used."
                )
            self._run.dvc("remote", "add", "-f", "-d", name, place)
            if endpoint_url is not None:
                self._run.dvc("remote", "modify", name, "endpointurl", endpoint_url)
            self._run.git("add", "--", ".dvc/config")
            if self._run.git("status", "--porcelain", "--", ".dvc/config"):
                self._advance(self._commit_index(f"Remote {name}: {url}", 0.0))

    def push(self, git_remote: str | None = None) -> None:
        """Send every tagged version to the remote, then the history; can be killed and run again.

        Raises:
            PostConditionFailed: the remote still lacks something afterwards.
        """
        with self.locked():
            self._require_remote()
            self._transfer().push()
            if git_remote is not None:
                # A tag that is no version may move. Versions may not: theirs must be new, or as they are there.
                names = [tag.name for tag in self.tags()]
                versions = {_version_in(subject) for subject in self.subjects()}
                tags = [
                    f"{'' if name in versions else '+'}refs/tags/{name}:refs/tags/{name}" for name in names
                ]
                self._run.git("push", "-q", "--atomic", git_remote, f"{_BRANCH}:{_BRANCH}", *tags)

    def pull(self, tags: Collection[str] | None = None) -> None:
        """Bring what is new in the history that this one was cloned from, then data from the remote.

        Args:
            tags: the versions whose data is wanted; by default all, and then the newest is shown.

        Raises:
            NotFound: no such tag.
            Conflict: versions were made both here and there; nothing was changed.
            PostConditionFailed: something is still missing afterwards.
        """
        with self.locked():
            self._follow()
            self._require_remote()
            self._transfer(tags).fetch()
            if tags is None:
                self._run.dvc("checkout", "-f")

    def _require_remote(self) -> None:
        if self._exists() and not self._remotes():
            raise NotFound(
                f"{self.folder} has no remote for its data; set one with `retrain dataset remote add URL`."
            )

    def _remotes(self) -> dict[str, str]:
        """Name → place of each remote, from the file: DVC breaks the lines of its list where a terminal is narrow."""
        config = ConfigParser(interpolation=None)
        config.read(self.folder / ".dvc" / "config", encoding="utf-8")
        found = {}
        for section in config.sections():
            if section.startswith("'remote "):
                url = config[section]["url"]
                # DVC writes folders as seen from its own.
                place = url if "://" in url else os.path.normpath(self.folder / ".dvc" / url)
                found[section.split('"')[1]] = place
        return found

    def _follow(self) -> None:
        """Take over the commits and tags of the repository that this one was cloned from."""
        if "origin" not in self._run.git("remote").split():
            return
        self._run.git(
            "fetch",
            "-q",
            "--no-tags",
            "origin",
            f"+{_BRANCH}:{_THEIRS}/main",
            f"+refs/tags/*:{_THEIRS}/tags/*",
        )
        ours, theirs = self.resolve(_BRANCH), self.resolve(f"{_THEIRS}/main")
        ahead = self._run.git("rev-list", "--count", f"{theirs}..{ours}").strip()
        behind = self._run.git("rev-list", "--count", f"{ours}..{theirs}").strip()
        if ahead != "0" and behind != "0":
            raise Conflict(
                f"{ahead} commits were made in {self.folder} and {behind} where it was cloned from. Push from one of "
                "them first, clone it anew, and make the other's versions there again."
            )
        versions = {name for subject in self.subjects() if (name := _version_in(subject))}
        form = "--format=%(refname:strip=3) %(objectname)"
        for line in self._run.git("for-each-ref", form, f"{_THEIRS}/tags").splitlines():
            name, commit = line.split(" ")
            if (known := self.resolve(f"refs/tags/{name}")) not in {None, commit} and name in versions:
                raise Conflict(f"Version {name} is another one where {self.folder} was cloned from.")
            self._run.git("update-ref", f"refs/tags/{name}", commit, known or _NOTHING)
        if behind != "0":
            self._advance(str(theirs))
            self._run.git("checkout", "-q", "-f", "main")

    def _transfer(self, names: Collection[str] | None = None) -> Transfer:
        if not self._exists():
            raise NotFound(f"There are no datasets in {self.folder}.")
        tags = {tag.name: tag for tag in self.tags()}
        if unknown := sorted(set(names or ()) - tags.keys()):
            raise NotFound(
                f"No version {unknown[0]!r} in {self.folder}. Existing: {', '.join(tags) or 'none'}."
            )
        pointers = {}
        for tag in (tags[name] for name in (tags if names is None else names)):
            names = self._run.git("ls-tree", "--name-only", tag.commit).split()
            tracked = [name for name in names if name.endswith(".dvc") and name != ".dvc"]
            pointers[tag.name] = {name: self._run.git("show", f"{tag.commit}:{name}") for name in tracked}
        return Transfer(self.folder / ".dvc", self.scratch, self._lock, pointers)

    def _exists(self) -> bool:
        if not (self.folder / ".git" / "HEAD").exists() or self.resolve(_BRANCH) is None:
            return False
        if not (self.folder / ".dvc" / "config").exists():
            raise BadInput(
                f"{self.folder} is a Git repository of something else; choose a folder for datasets only."
            )
        return True

    def _commit_index(self, message: str, now: float) -> str:
        tree, parent = self._run.git("write-tree").strip(), self.resolve(_BRANCH)
        # Strictly growing, so that the order of versions never depends on a clock that was set back.
        last = int(self._run.git("log", "-1", "--format=%ct", parent)) if parent else 0
        date = f"@{max(int(now), last + 1)} +0000"
        more = {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
        parents = ("-p", parent) if parent else ()
        return self._run.git("commit-tree", tree, *parents, "-m", message, more=more).strip()

    def _advance(self, commit: str) -> None:
        self._run.git("update-ref", _BRANCH, commit, self.resolve(_BRANCH) or _NOTHING)

    def show_newest(self) -> None:
        """Show the newest commit's small files, as every commit must before it changes any; the lock is held."""
        if self._run.git("rev-parse", "--symbolic-full-name", "HEAD").strip() != _BRANCH:
            self._run.git("checkout", "-q", "-f", "main")
        # A killed commit may have left its pointers in the index; they must not slip into this one.
        self._run.git("read-tree", _BRANCH)

    def _recover(self) -> None:
        """Remove what a killed process left. Nobody else is inside: children hold the lock until they end."""
        git = self.folder / ".git"
        for left in (
            *git.glob("*.lock"),
            *git.glob("refs/**/*.lock"),
            self.folder / ".dvc" / "tmp" / "rwlock",
        ):
            left.unlink(missing_ok=True)
        if self._exists():
            for ahead in self._run.git(
                "for-each-ref", "--format=%(objectname)", "--no-merged", _BRANCH, "refs/tags"
            ).split():
                if self.resolve(f"{ahead}^") == self.resolve(_BRANCH):
                    self._advance(ahead)

    def _pointer(self, path: str, revision: str) -> str | None:
        text = self._run.git_bytes("show", f"{revision}:{path}.dvc")
        return None if text is None else str(yaml.safe_load(text)["outs"][0]["md5"])

    def _cache_path(self, md5: str) -> Path:
        return self._cache / md5[:2] / md5[2:]

    @property
    def _cache(self) -> Path:
        return self.folder / ".dvc" / "cache" / "files" / "md5"

    def _cached_sizes(self) -> dict[Path, int]:
        return {path: path.stat().st_size for path in self._cache.rglob("*") if path.is_file()}

    def _cached(self, md5: str, path: str) -> Path:
        if not (found := self._cache_path(md5)).exists():
            raise NotFound(
                f"The bytes of {path} are not on this machine. Pull {self.folder} from its remote first."
            )
        return found


def _version_in(subject: str) -> str | None:
    """The version that a commit made, by its first line."""
    words = subject.split(" ")
    return words[1] if words[0] == "Dataset" and len(words) == 3 else None
