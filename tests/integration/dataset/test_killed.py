"""SIGKILL at every step of a commit, then the same call again."""

import signal
import subprocess
import sys
import threading

import pytest

from retrain.dataset.manager import DatasetManager

# Kills itself before or after one step of the adapter; the product code has no such hook.
DRIVER = """
import os, shutil, signal, sys, threading
from pathlib import Path
import retrain.dataset.composer as composer
from retrain.dataset.publisher import Publisher
from retrain.dataset.commands import Commands
from retrain.dataset.drafts import Drafts
from retrain.dataset.manager import DatasetManager

folder, point = sys.argv[1:]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def deadly(owner, name, applies, when, die=die):
    original = getattr(owner, name)
    def wrapped(*args, **kwargs):
        hit = applies(args)
        if hit and when == "before":
            die()
        if hit and when == "during":
            threading.Timer(0.4, die).start()
        result = original(*args, **kwargs)
        if hit and when == "after":
            die()
        return result
    setattr(owner, name, wrapped)

def left_locks():
    for left in (".git/index.lock", ".git/HEAD.lock", ".git/refs/tags/v1.1.0.lock", ".git/refs/heads/main.lock"):
        (Path(folder) / left).touch()
    (Path(folder) / ".dvc/tmp/rwlock").write_text('{"write": {')
    die()

is_git = lambda word, part="": lambda args: word in args and any(part in str(a) for a in args)
points = {
    "pack written": lambda: deadly(composer, "arrange_packs", lambda _: True, "after"),
    "packs arranged": lambda: deadly(Publisher, "_arrange_manifest", lambda _: True, "after"),
    "dvc add running": lambda: deadly(Commands, "dvc", is_git("add"), "during"),
    "dvc add done": lambda: deadly(Commands, "dvc", is_git("add"), "after"),
    "git add killed": lambda: deadly(Commands, "git", is_git("add"), "before", left_locks),
    "commit made": lambda: deadly(Commands, "git", is_git("commit-tree"), "after"),
    "tag made": lambda: deadly(Commands, "git", is_git("update-ref", "refs/tags"), "after"),
    "branch moved": lambda: deadly(Commands, "git", is_git("update-ref", "refs/heads"), "after"),
    "read back": lambda: deadly(Drafts, "discard", lambda _: True, "before"),
    "draft half discarded": lambda: deadly(shutil, "rmtree", lambda args: "drafts" in str(args[0]), "before"),
}
points[point]()
DatasetManager(folder).commit("v1.1.0")
"""


def kill_at(folder, point):
    command = [sys.executable, "-c", DRIVER, str(folder), point]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, f"was not killed at {point!r}: {done.stderr}"


def assert_committed_once(manager, build, name, images):
    folder = manager.repository.folder
    fresh = DatasetManager(folder)
    assert len(fresh.verify(name).items) == images
    subjects = build.git(folder, "log", "--format=%s", "main").splitlines()
    assert sum(subject.startswith(f"Dataset {name} ") for subject in subjects) == 1
    assert build.git(folder, "tag").splitlines().count(name) == 1
    assert build.git(folder, "status", "--porcelain") == ""
    assert build.git(folder, "rev-parse", "HEAD") == build.git(folder, "rev-parse", f"{name}^{{commit}}")


POINTS = [
    "pack written",
    "packs arranged",
    "dvc add running",
    "dvc add done",
    "git add killed",
    "commit made",
    "tag made",
    "branch moved",
    "read back",
    "draft half discarded",
]


@pytest.mark.parametrize("point", POINTS)
def test_a_commit_killed_anywhere_and_called_again_is_there_once(manager, build, point):
    build.fill(manager, manager.create_version("v1.1.0", "words", parent="v1.0.0"), range(24, 36))
    kill_at(manager.repository.folder, point)
    seen = DatasetManager(manager.repository.folder).versions()

    DatasetManager(manager.repository.folder).commit("v1.1.0")

    assert seen == (["v1.0.0", "v1.1.0"] if POINTS.index(point) >= POINTS.index("tag made") else ["v1.0.0"])
    assert_committed_once(manager, build, "v1.1.0", 36)
    assert DatasetManager(manager.repository.folder).verify("v1.0.0").name == "v1.0.0"


def test_the_whole_import_may_be_repeated_after_a_kill_and_later_versions_follow(manager, build):
    build.fill(manager, manager.create_version("v1.1.0", "about v1.1.0", parent="v1.0.0"), range(24, 36))
    kill_at(manager.repository.folder, "dvc add done")

    build.version(DatasetManager(manager.repository.folder), "v1.1.0", range(24, 36), parent="v1.0.0")
    assert_committed_once(manager, build, "v1.1.0", 36)

    build.version(manager, "v1.2.0", range(36, 38), parent="v1.1.0")
    assert_committed_once(manager, build, "v1.2.0", 38)


def test_another_version_may_be_committed_between_a_kill_and_the_retry(manager, build):
    build.fill(manager, manager.create_version("v1.1.0", "words", parent="v1.0.0"), range(24, 36))
    kill_at(manager.repository.folder, "tag made")

    build.version(DatasetManager(manager.repository.folder), "v1.2.0", range(40, 44), parent="v1.1.0")
    DatasetManager(manager.repository.folder).commit("v1.1.0")

    subjects = build.git(manager.repository.folder, "log", "--format=%s", "main").splitlines()
    assert [subject.split()[1] for subject in subjects[:3]] == ["v1.2.0", "v1.1.0", "v1.0.0"]


def test_two_processes_that_commit_at_once_both_succeed(manager, build):
    names = ["v1.1.0", "v1.2.0"]
    for number, name in enumerate(names):
        draft = manager.create_version(name, parent="v1.0.0")
        build.fill(manager, draft, range(30 + 4 * number, 34 + 4 * number))
    code = "import sys; from retrain.dataset.manager import DatasetManager as M;"
    code += "print(M(sys.argv[1]).commit(sys.argv[2]).digest)"
    command = [sys.executable, "-c", code, str(manager.repository.folder)]

    started = [subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in names]
    said = [process.communicate(timeout=60)[0].strip() for process in started]

    assert [manager.verify(name).digest for name in names] == said
    assert sorted(manager.versions()) == ["v1.0.0", "v1.1.0", "v1.2.0"]
    assert len(build.git(manager.repository.folder, "log", "--format=%H", "main").split()) == 4


def test_two_processes_that_commit_the_same_draft_at_once_make_one_version(manager, build):
    draft = manager.create_version("v1.1.0", parent="v1.0.0")
    build.fill(manager, draft, range(30, 34))
    digests = []

    def commit():
        digests.append(DatasetManager(manager.repository.folder).commit("v1.1.0").digest)

    threads = [threading.Thread(target=commit) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(digests) == 2
    assert len(set(digests)) == 1
    assert_committed_once(manager, build, "v1.1.0", 28)


def test_making_the_repository_may_be_killed_too(tmp_path, build):
    code = "import os, signal, sys; import retrain.dataset.dvc_repository as module;"
    code += "module.write_durably = lambda *_: os.kill(os.getpid(), signal.SIGKILL);"
    code += "module.DvcRepository(module.Path(sys.argv[1])).init(0.0)"
    died = subprocess.run([sys.executable, "-c", code, str(tmp_path / "new")])
    assert died.returncode == -signal.SIGKILL

    build.version(DatasetManager(tmp_path / "new"), "v1.0.0", range(4))

    assert_committed_once(DatasetManager(tmp_path / "new"), build, "v1.0.0", 4)
