"""SIGKILL at every step of a commit and of all other work, and at random times; then the same call again."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from retrain.dataset.manager import DatasetManager
from retrain.dataset.repository.dvc_repository import DvcRepository

# Kills itself before or after one step of the adapter; the product code has no such hook.
DRIVER = """
import os, shutil, signal, sys, threading
from pathlib import Path
import retrain.dataset.committing.composer as composer
from retrain.dataset.committing.publisher import Publisher
from retrain.dataset.repository.commands import Commands
from retrain.dataset.drafting.drafts import Drafts
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
    code = "import os, signal, sys; import retrain.dataset.repository.dvc_repository as module;"
    code += "module.write_durably = lambda *_: os.kill(os.getpid(), signal.SIGKILL);"
    code += "module.DvcRepository(module.Path(sys.argv[1])).init(0.0)"
    died = subprocess.run([sys.executable, "-c", code, str(tmp_path / "new")])
    assert died.returncode == -signal.SIGKILL

    build.version(DatasetManager(tmp_path / "new"), "v1.0.0", range(4))

    assert_committed_once(DatasetManager(tmp_path / "new"), build, "v1.0.0", 4)


# Everything else that can be killed

STEPS_DRIVER = (
    DRIVER.split("left_locks", maxsplit=1)[0].rpartition("def ")[0]
    + """
import retrain.dataset.drafting.adding as adding
import retrain.dataset.repository.dvc_repository as repository
import retrain.dataset.repository.folder_lock as folder_lock
from retrain.boxes import Annotations
from retrain.dataset.committing.pictures import Pictures
from retrain.dataset.repository.transfer import Transfer

is_git = lambda word, part="": lambda args: word in args and any(part in str(a) for a in args)
is_dvc = lambda *words: lambda args: tuple(args[1 : 1 + len(words)]) == words
always = lambda _: True
points = {
    "packs of an addition written": lambda: deadly(adding, "write_packs", always, "after"),
    "addition not yet recorded": lambda: deadly(Drafts, "record", always, "before"),
    "addition recorded": lambda: deadly(Drafts, "record", always, "after"),
    "draft begun": lambda: deadly(Drafts, "begin", always, "after"),
    "file written": lambda: deadly(repository, "write_durably", always, "after"),
    "commit made": lambda: deadly(Commands, "git", is_git("commit-tree"), "after"),
    "tag made": lambda: deadly(Commands, "git", is_git("update-ref", "refs/tags"), "after"),
    "history shown": lambda: deadly(Commands, "git", is_git("checkout"), "after"),
    "data being shown": lambda: deadly(Commands, "dvc", is_dvc("checkout"), "during"),
    "garbage being deleted": lambda: deadly(Commands, "dvc", is_dvc("gc"), "during"),
    "garbage deleted": lambda: deadly(Pictures, "forget_others", always, "before"),
    "data being sent": lambda: deadly(Commands, "dvc", is_dvc("push"), "during"),
    "data sent": lambda: deadly(Commands, "git", is_git("push"), "before"),
    "lock taken over": lambda: deadly(folder_lock.os, "truncate", always, "after"),
    "never": lambda: None,
}
manager = DatasetManager(folder)
images = [path.read_bytes() for path in sorted((Path(folder).parent / "images").iterdir())]
operations = {
    "add": lambda: manager.add_images("v1.1.0", images, [Annotations.empty()] * len(images)),
    "merge": lambda: manager.merge("v2", "v1.0.0", "v1.1.0"),
    "forget": lambda: manager.forget([manager.get_version("v1.0.0").items[0].image], "request 1"),
    "tag": lambda: manager.tag("production", "v1.0.0"),
    "checkout": lambda: manager.checkout("v1.0.0"),
    "gc": lambda: manager.gc(),
    "push": lambda: manager.repository.push(str(Path(folder).parent / "shared.git")),
    "commit": lambda: manager.commit("v1.1.0"),
}
points[point]()
operations[operation]()
"""
)
STEPS_DRIVER = STEPS_DRIVER.replace("folder, point = sys.argv[1:]", "folder, operation, point = sys.argv[1:]")


def step(folder, operation, point="never"):
    command = [sys.executable, "-c", STEPS_DRIVER, str(folder), operation, point]
    done = subprocess.run(command, capture_output=True, text=True)
    expected = 0 if point == "never" else -signal.SIGKILL
    assert done.returncode == expected, (
        f"{operation} at {point!r} ended with {done.returncode}: {done.stderr}"
    )


def assert_nothing_orphaned(folder):
    """After a late gc, each stored file is one that a version needs."""
    manager = DatasetManager(folder, clock=lambda: time.time() + 40 * 86_400)
    manager.gc()
    names = manager.versions()
    versions = [manager.verify(name) for name in names]
    needed = set()
    for name in names:
        for kind in ("packs", "manifest"):
            pointer = manager.repository._pointer(kind, f"refs/tags/{name}")
            needed |= {
                pointer[2:],
                *(path.name for path in manager.repository.listing(kind, f"refs/tags/{name}").values()),
            }
    assert files(folder / ".dvc" / "cache") == needed, "DVC's cache"
    newest = manager.get_version(names[-1])
    assert files(folder / "packs") == {f"{item.pack}.zip" for item in newest.items}, "packs on show"
    assert files(folder / ".work" / "drafts") == files(folder / ".work" / "incoming") == set(), "drafts"
    packs = {item.pack for version in versions for item in version.items}
    assert {name.partition(".")[0] for name in files(folder / ".work" / "pictures")} <= packs, "hashes"
    assert manager.repository.status() == {}


def files(folder):
    return {path.name for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def second_version_folder(first_version_folder, tmp_path_factory):
    """v1.0.0, v1.1.0 made of four images in a folder beside it, and a remote."""
    place = tmp_path_factory.mktemp("second")
    shutil.copytree(first_version_folder, place / "datasets", symlinks=True)
    rng = np.random.default_rng(4242)
    for number in range(6):
        pixels = rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)
        path = place / ("images" if number < 4 else "more") / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
    manager = DatasetManager(place / "datasets")
    manager.repository.add_remote("store", str(place / "store"))
    manager.create_version("v1.1.0", parent="v1.0.0")
    step(place / "datasets", "add")
    manager.commit("v1.1.0")
    subprocess.run(
        ["git", "init", "-q", "--bare", "--initial-branch=main", str(place / "shared.git")], check=True
    )
    return place


@pytest.fixture
def place(second_version_folder, tmp_path):
    shutil.copytree(second_version_folder, tmp_path / "place", symlinks=True)
    folder = tmp_path / "place" / "datasets"
    DatasetManager(folder).repository.add_remote("store", str(tmp_path / "place" / "store"), replace=True)
    return folder


@pytest.mark.parametrize(
    "point", ["packs of an addition written", "addition not yet recorded", "addition recorded"]
)
def test_an_addition_killed_anywhere_and_repeated_is_there_once(
    first_version_folder, second_version_folder, tmp_path, point
):
    shutil.copytree(first_version_folder, tmp_path / "datasets", symlinks=True)
    shutil.copytree(second_version_folder / "images", tmp_path / "images")
    DatasetManager(tmp_path / "datasets").create_version("v1.1.0", parent="v1.0.0")
    step(tmp_path / "datasets", "add", point)

    step(tmp_path / "datasets", "add")

    assert len(DatasetManager(tmp_path / "datasets").commit("v1.1.0").items) == 28
    assert files(tmp_path / "datasets" / ".work" / "drafts") == set()
    assert len(files(tmp_path / "datasets" / "packs")) == 2


@pytest.mark.parametrize(
    ("operation", "point"),
    [
        ("merge", "draft begun"),
        ("merge", "tag made"),
        ("forget", "file written"),
        ("forget", "commit made"),
        ("tag", "tag made"),
        ("checkout", "history shown"),
        ("gc", "garbage being deleted"),
        ("gc", "garbage deleted"),
        ("push", "data being sent"),
        ("push", "data sent"),
    ],
)
def test_any_other_work_killed_anywhere_hurts_no_version_and_completes_the_next_time(place, operation, point):
    before = {name: DatasetManager(place).verify(name).digest for name in ("v1.0.0", "v1.1.0")}
    step(place, operation, point)
    assert {name: DatasetManager(place).verify(name).digest for name in before} == before

    step(place, operation)

    manager = DatasetManager(place)
    after = {
        "merge": lambda: manager.verify("v2").items == manager.get_version("v1.1.0").items,
        "forget": lambda: manager.forget([manager.get_version("v1.0.0").items[0].image], "again") == (),
        "tag": lambda: manager.get_version("production").name == "v1.0.0",
        "checkout": lambda: len(files(place / "packs")) == 1,
        "gc": lambda: True,
        "push": lambda: pulled_from(place, before),
    }
    assert after[operation]()
    if operation in {"merge", "gc"}:
        assert_nothing_orphaned(place)
    else:
        assert operation == "checkout" or manager.repository.status() == {}
    assert {name: DatasetManager(place).verify(name).digest for name in before} == before


def pulled_from(place, digests):
    clone = DatasetManager(
        DvcRepository.clone(str(place.parent / "shared.git"), place.parent / "clone").folder
    )
    clone.repository.pull()
    return {name: clone.verify(name).digest for name in clone.versions()} == digests


def test_who_is_killed_while_taking_over_from_a_killed_one_does_not_hide_what_that_one_left(place):
    interrupted = place / ".git" / "refs" / "heads" / "main.lock"
    (place / ".work" / "lock").write_text("4194304\n")
    interrupted.touch()
    step(place, "tag", "lock taken over")

    DatasetManager(place).forget(["ab" * 32], "any work that moves the branch")

    assert not interrupted.exists()


WHOLE_RUN = """
import sys
from pathlib import Path
from retrain.boxes import Annotations
from retrain.dataset.manager import DatasetManager
from retrain.errors import NotFound

folder, images = Path(sys.argv[1]), [path.read_bytes() for path in sorted(Path(sys.argv[2]).iterdir())]
manager = DatasetManager(folder)
for number, image in enumerate(images):
    name = f"v2.{number}"
    if name not in manager.versions():
        draft = manager.create_version(name, parent=manager.versions()[-1])
        manager.add_images(draft, [image], [Annotations.empty()])
        manager.commit(draft)
    manager.tag(f"trained-on-{name}", name)
    manager.checkout(manager.versions()[0])
    manager.gc()
    manager.repository.push(str(folder.parent / "shared.git"))
"""


def test_killed_at_random_times_again_and_again_no_version_is_hurt_and_nothing_is_left_over(place):
    seed = int(os.environ.get("RETRAIN_KILL_SEED", "20261129"))
    delays = np.random.default_rng(seed).uniform(0.4, 5.5, 10)
    command = [sys.executable, "-c", WHOLE_RUN, str(place), str(place.parent / "more")]
    digests, killed = {}, 0

    for delay in delays:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(delay)
        killed += process.poll() is None
        process.kill()
        said = process.communicate()[1]
        assert process.returncode in {0, -signal.SIGKILL}, f"seed {seed}, after {delay:.2f} s: {said}"
        manager = DatasetManager(place)
        now = {name: manager.verify(name).digest for name in manager.versions()}
        assert now.items() >= digests.items(), f"seed {seed}, after {delay:.2f} s"
        digests = now
    done = subprocess.run(command, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert killed >= len(delays) // 2
    assert DatasetManager(place).versions() == ["v1.0.0", "v1.1.0", "v2.0", "v2.1"]
    assert_nothing_orphaned(place)
    assert pulled_from(
        place,
        {name: DatasetManager(place).verify(name).digest for name in ("v1.0.0", "v1.1.0", "v2.0", "v2.1")},
    )
