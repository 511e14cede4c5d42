"""Versions made of versions, tags, forgetting, garbage, and travel, on real repositories and real S3 servers."""

import contextlib
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retrain.boxes import Annotations
from retrain.dataset.manager import DatasetManager
from retrain.dataset.reading.materialise import materialise
from retrain.dataset.repository.commands import Commands
from retrain.dataset.repository.dvc_repository import DvcRepository
from retrain.errors import BadInput, Conflict, Leakage, NotFound, RetrainError, StorageFull
from retrain.storage.digests import content_digest

TWO_BOXES = Annotations.of([[1, 2, 12, 13], [0, 0, 5, 5]], [0, 1])


def picture(seed, side=24):
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def digest_of(seed):
    return content_digest(picture(seed))


def add(manager, draft, seeds, **options):
    options.setdefault("groups", [f"group-{seed // 2}" for seed in seeds])
    return manager.add_images(draft, [picture(n) for n in seeds], [TWO_BOXES] * len(seeds), **options)


def make(manager, name, seeds, parent=None, **options):
    draft = manager.create_version(name, parent=parent, classes=None if parent else ["dog", "one"])
    add(manager, draft, seeds, **options)
    return manager.commit(draft)


def bytes_in_packs(manager, name):
    """Digests of all images whose bytes are in a version's packs, also such as it does not list."""
    version = manager.get_version(name)
    inside = set()
    for pack in {item.pack for item in version.items}:
        with zipfile.ZipFile(manager.pack_file(version, pack)) as archive:
            inside |= {member.partition(".")[0] for member in archive.namelist()}
    return inside


def verify_all(folder):
    manager = DatasetManager(folder)
    return {name: manager.verify(name).digest for name in manager.versions()}


def verify_some(manager, names):
    return [manager.verify(name) for name in names]


@pytest.fixture(scope="module")
def families_folder(first_version_folder, tmp_path_factory):
    """v1.0.0 → v1.1.0 (12 images more), and v9 with other classes and images."""
    folder = tmp_path_factory.mktemp("families") / "datasets"
    shutil.copytree(first_version_folder, folder, symlinks=True)
    manager = DatasetManager(folder)
    make(manager, "v1.1.0", range(24, 36), parent="v1.0.0")
    make(manager, "v9", range(200, 208))
    return folder


@pytest.fixture
def families(families_folder, tmp_path):
    shutil.copytree(families_folder, tmp_path / "datasets", symlinks=True)
    return DatasetManager(tmp_path / "datasets")


# Versions made of versions


def test_a_merge_has_both_with_their_splits_and_reads_back_whole(families):
    a, b = families.get_version("v1.1.0"), families.get_version("v9")

    merged = families.merge("v10", "v1.1.0", "v9", {"dog": "cow", "one": None})

    fresh = DatasetManager(families.repository.folder)
    assert fresh.verify("v10") == merged
    assert merged.classes == ("zero", "one", "two", "cow")
    assert merged.by_image.keys() == a.by_image.keys() | b.by_image.keys()
    assert all(merged.by_image[item.image] == item for item in a.items)
    for item in b.items:
        assert merged.by_image[item.image].split == item.split
        assert [o.class_index for o in merged.by_image[item.image].objects] == [3]
        assert fresh.image_bytes(merged, merged.by_image[item.image])
    assert {item.pack for item in merged.items} == {item.pack for item in (*a.items, *b.items)}, (
        "nothing is repacked"
    )
    assert families.merge("v10", "v1.1.0", "v9", {"dog": "cow", "one": None}).digest == merged.digest


def test_a_version_merged_with_its_own_descendant_is_the_descendant(families):
    merged = families.merge("v10", "v1.0.0", "v1.1.0")

    assert merged.items == families.get_version("v1.1.0").items


def test_a_merge_of_siblings_that_share_a_waived_group_keeps_its_waiver(families):
    draft = families.create_version("v2", parent="v1.0.0")
    add(families, draft, [300, 301], groups=["torn", "torn"], splits=["train", "test"])
    torn = families.commit(draft, waive="two days of one camera")
    for name, seed in (("v3", 302), ("v4", 304)):
        make(families, name, [seed], parent="v2")

    merged = families.merge("v5", "v3", "v4")

    assert merged.waivers == torn.waivers
    assert len(merged.items) == 24 + 2 + 2
    assert families.verify("v5") == merged


def test_a_subset_of_a_version_with_a_waived_group_needs_no_second_waiver(families):
    draft = families.create_version("v2", parent="v1.0.0")
    seeds = sorted(range(300, 308), key=digest_of)
    add(
        families,
        draft,
        seeds,
        groups=["torn"] * 8,
        splits=["train", "test"] * 4,
        # The two that stand for the group in its waiver are those with the smallest digests.
        metadata=[{"camera": "gone" if n < 2 else "kept"} for n in range(8)],
    )
    families.commit(draft, waive="two days of one camera")

    part = families.subset("v3", "v2", "camera=kept")

    assert len(part.items) == 6
    assert [waiver.reason for waiver in part.waivers] == ["two days of one camera"]


def test_a_subset_and_its_complement_share_packs_and_a_revert_brings_all_back(families):
    whole = families.get_version("v1.0.0")
    parts = families.split("v1.0.0", {"north": "camera=camera-0", "south": "camera=camera-1"})
    with pytest.raises(BadInput, match=r"No image of v1\.0\.0 meets"):
        families.subset("none", "v1.0.0", "camera=nowhere")

    back = families.revert("v2", "v1.0.0")

    assert {i.image for i in parts["north"].items} | {
        i.image for i in parts["south"].items
    } == whole.by_image.keys()
    assert not {i.image for i in parts["north"].items} & {i.image for i in parts["south"].items}
    assert all(whole.by_image[item.image] == item for part in parts.values() for item in part.items)
    assert back.items == whole.items
    assert (back.parent, back.classes) == ("v9", whole.classes)
    assert "none" not in families.versions()
    assert families.lineage("v2")[:2] == [info for info in families.log() if info.name in {"v2", "v9"}]
    verify_all(families.repository.folder)


# Tags


def test_a_tag_is_another_name_that_moves_and_goes_and_a_version_stays(families):
    families.tag("production", "v1.0.0")
    with pytest.raises(Conflict, match="say so if it shall move"):
        families.tag("production", "v1.1.0")
    families.tag("production", "v1.1.0", move=True)

    assert families.get_version("production") == families.get_version("v1.1.0")
    assert families.lineage("production") == families.lineage("v1.1.0")
    assert families.log()[1].tags == ("production",)
    assert make(families, "v2", [400], parent="production").parent == "v1.1.0"
    for taken in (lambda: families.tag("v1.0.0", "v1.1.0", move=True), lambda: families.untag("v1.0.0")):
        with pytest.raises(Conflict, match="is a version"):
            taken()
    families.untag("production")
    with pytest.raises(NotFound, match="'production' not found"):
        families.untag("production")


# Forgetting


@pytest.fixture(scope="module")
def forgetful_folder(families_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("forgetful") / "datasets"
    shutil.copytree(families_folder, folder, symlinks=True)
    manager = DatasetManager(folder)
    manager.forget([digest_of_first(manager), digest_of(201)], "request 12")
    return folder


def digest_of_first(manager):
    return manager.get_version("v1.0.0").items[0].image


@pytest.fixture
def forgetful(forgetful_folder, tmp_path):
    shutil.copytree(forgetful_folder, tmp_path / "datasets", symlinks=True)
    return DatasetManager(tmp_path / "datasets")


@pytest.mark.parametrize("how", ["child", "merge", "subset", "revert"])
def test_a_forgotten_image_is_in_no_later_version_nor_are_its_bytes_in_its_packs(forgetful, how):
    gone = {digest_of_first(forgetful), digest_of(201)}
    {
        "child": lambda: make(forgetful, "next", [500], parent="v1.1.0"),
        "merge": lambda: forgetful.merge("next", "v1.1.0", "v9"),
        "subset": lambda: forgetful.subset("next", "v1.0.0", "camera=camera-*"),
        "revert": lambda: forgetful.revert("next", "v1.0.0"),
    }[how]()

    later = DatasetManager(forgetful.repository.folder)
    assert not gone & later.verify("next").by_image.keys()
    assert not gone & bytes_in_packs(later, "next")
    assert len(verify_all(forgetful.repository.folder)) == 4
    with pytest.raises(BadInput, match=r"forgotten for good \(request 12\)"):
        add(later, later.create_version("v11", parent="next"), [201])


def test_an_image_forgotten_while_a_draft_has_it_is_not_in_the_version(families):
    draft = families.create_version("v2", parent="v1.0.0")
    add(families, draft, range(500, 504))

    families.forget([digest_of(501)], "request 13")
    version = families.commit(draft)

    assert digest_of(501) not in version.by_image
    assert digest_of(501) not in bytes_in_packs(families, "v2")
    assert len(version.items) == 24 + 3


def test_a_damaged_list_of_forgotten_images_is_an_error_and_not_an_empty_list(forgetful):
    folder = forgetful.repository.folder
    listed = ["git", "-C", str(folder), "rev-parse", "main:forgotten.jsonl"]
    blob = subprocess.run(listed, capture_output=True, check=True, text=True).stdout.strip()
    stored = folder / ".git" / "objects" / blob[:2] / blob[2:]
    stored.chmod(0o644)
    stored.write_bytes(b"damaged")
    fresh = DatasetManager(folder)
    draft = fresh.create_version("v2", parent="v1.0.0")

    with pytest.raises(RetrainError):
        add(fresh, draft, [201])
    with pytest.raises(RetrainError):
        fresh.forget([digest_of(400)], "another")


def test_a_copy_of_an_old_image_is_noticed_also_after_its_pack_was_written_anew(families):
    """The leak check must not lose the old images' hashes when old and new images come into one pack."""
    held_out = families.get_version("v1.0.0").in_split("test")
    brighter = np.clip(pixels_of(families, held_out[0]).astype(np.float64) * 1.03, 0, 255).astype(np.uint8)
    forgotten = next(item for item in families.get_version("v1.0.0").items if item.image != held_out[0].image)
    families.forget([forgotten.image], "request 14")
    make(families, "v2", [600, 601], parent="v1.0.0")

    fresh = DatasetManager(families.repository.folder)
    draft = fresh.create_version("v3", parent="v2")
    buffer = io.BytesIO()
    Image.fromarray(brighter).save(buffer, "PNG")
    fresh.add_images(draft, [buffer.getvalue()], [Annotations.empty()], splits=["train"])

    with pytest.raises(Leakage, match="1 pairs of images leak"):
        fresh.commit(draft)


def pixels_of(manager, item):
    version = manager.get_version("v1.0.0")
    return np.asarray(Image.open(io.BytesIO(manager.image_bytes(version, item))))


# Garbage


def stored_files(folder):
    """Everything that holds data: DVC's cache, shown packs and segments, drafts, cached hashes."""
    places = (".dvc/cache", "packs", "manifest", ".work/drafts", ".work/incoming", ".work/pictures")
    return {
        str(p.relative_to(folder)) for place in places for p in (folder / place).rglob("*") if p.is_file()
    }


def test_garbage_that_killed_work_left_goes_and_what_any_version_needs_stays(families):
    folder = families.repository.folder
    before = verify_all(folder)
    needed = stored_files(folder)
    make_orphans = families.create_version("v2", parent="v1.0.0")
    add(families, make_orphans, range(700, 704))
    with contextlib.suppress(Interrupted):
        interrupted_after_dvc_add(families, make_orphans)
    (folder / ".work" / "pictures" / f"{'ab' * 32}.pictures").write_bytes(b"")
    assert stored_files(folder) & cache_of(needed) == cache_of(needed)
    assert len(cache_of(stored_files(folder))) == len(cache_of(needed)) + 4

    found = DatasetManager(folder, clock=lambda: time.time() + 40 * 86_400).gc()

    assert found.drafts == ("v2",)
    assert found.files == 4, "a pack, a segment and their two lists"
    assert found.pictures == 1
    assert cache_of(stored_files(folder)) == cache_of(needed)
    assert not [path for path in stored_files(folder) if path.startswith((".work/drafts", ".work/incoming"))]
    assert verify_all(folder) == before
    again = DatasetManager(folder).gc()
    assert (again.drafts, again.files, again.bytes, again.pictures) == ((), 0, 0, 0)


def cache_of(paths):
    return {path for path in paths if path.startswith(".dvc")}


class Interrupted(Exception):
    pass


def interrupted_after_dvc_add(manager, draft):
    plain = Commands.dvc

    def dying(commands, *arguments):
        plain(commands, *arguments)
        raise Interrupted

    Commands.dvc = dying
    try:
        manager.commit(draft)
    finally:
        Commands.dvc = plain


def test_a_draft_survives_gc_and_can_be_committed_afterwards_with_an_old_version_on_show(families):
    draft = families.create_version("v2", parent="v1.1.0")
    add(families, draft, range(700, 704))
    families.tag("keep", "v1.0.0")
    families.untag("keep")
    families.checkout("v1.0.0")

    found = DatasetManager(families.repository.folder).gc()

    assert (found.drafts, found.files) == ((), 0)
    assert len(DatasetManager(families.repository.folder).commit("v2").items) == 24 + 12 + 4
    assert set(verify_all(families.repository.folder)) == {"v1.0.0", "v1.1.0", "v9", "v2"}


def test_gc_and_commit_and_add_at_once_all_succeed_and_lose_nothing(families):
    folder = families.repository.folder
    for name, seed in (("v2", 700), ("v3", 710)):
        add(families, families.create_version(name, parent="v1.0.0"), range(seed, seed + 4))
    families.create_version("v4", parent="v1.0.0")
    code = (
        "import sys; from retrain.dataset.manager import DatasetManager as M\n"
        "m = M(sys.argv[1]); what, name = sys.argv[2:]\n"
        "m.gc() if what == 'gc' else m.commit(name)\n"
    )
    jobs = [("gc", "-"), ("commit", "v2"), ("gc", "-"), ("commit", "v3")]

    started = [
        subprocess.Popen([sys.executable, "-c", code, str(folder), *job], stderr=subprocess.PIPE, text=True)
        for job in jobs
    ]
    add(families, "v4", range(720, 724))
    ended = [(process.communicate(timeout=120)[1], process.returncode) for process in started]

    assert [code for _, code in ended] == [0] * len(jobs), ended
    assert len(families.commit("v4").items) == 28
    assert set(verify_all(folder)) == {"v1.0.0", "v1.1.0", "v9", "v2", "v3", "v4"}


# Travel


@pytest.fixture
def shared(families, s3_server_moto, tmp_path, monkeypatch):
    """The versions pushed to a Git remote and an S3 bucket; gives the Git remote, the server and the bucket."""
    return publish(families, s3_server_moto, tmp_path, monkeypatch)


def publish(families, server, tmp_path, monkeypatch):
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    bucket = server.new_bucket()
    git = tmp_path / "shared.git"
    subprocess.run(["git", "init", "-q", "--bare", "--initial-branch=main", str(git)], check=True)
    families.repository.add_remote("store", f"s3://{bucket}/datasets", server.endpoint_url)
    families.repository.push(str(git))
    return git, server, bucket


def cached(folder):
    return {path.name for path in (folder / ".dvc" / "cache").rglob("*") if path.is_file()}


def test_a_tag_that_moved_is_pushed_too(families, tmp_path):
    git = tmp_path / "shared.git"
    subprocess.run(["git", "init", "-q", "--bare", str(git)], check=True)
    families.repository.add_remote("store", str(tmp_path / "store"))
    families.tag("production", "v1.0.0")
    families.repository.push(str(git))

    families.tag("production", "v1.1.0", move=True)
    families.repository.push(str(git))

    # Whatever branch the shared repository calls its own: a plain `git init --bare` says master.
    clone = DatasetManager(DvcRepository.clone(str(git), tmp_path / "clone").folder)
    assert clone.versions() == families.versions()
    clone.repository.pull(["production"])
    assert clone.verify("production") == families.get_version("v1.1.0")


def test_one_version_is_pulled_alone_and_works_without_the_others(shared, families, tmp_path):
    git, _, _ = shared
    clone = DatasetManager(DvcRepository.clone(str(git), tmp_path / "clone").folder)

    clone.repository.pull(["v1.0.0"])

    assert clone.verify("v1.0.0").digest == families.get_version("v1.0.0").digest
    assert len(cached(clone.repository.folder)) == 4, "its pack, its segment and their two lists"
    with pytest.raises(NotFound, match="not on this machine"):
        clone.get_version("v9")
    with pytest.raises(NotFound, match="No version 'v7'"):
        clone.repository.pull(["v7"])


def test_a_clone_with_one_version_can_commit_its_successor_and_collect_garbage(shared, tmp_path):
    git, _, _ = shared
    clone = DatasetManager(DvcRepository.clone(str(git), tmp_path / "clone").folder)
    clone.repository.pull(["v1.0.0"])

    child = make(clone, "v1.2.0", range(800, 804), parent="v1.0.0")
    clone.gc()

    assert len(child.items) == 28
    assert clone.verify("v1.2.0") == child
    assert clone.verify("v1.0.0")
    clone.repository.push(str(git))
    # Another one that nobody else has yet is no reason to complain.
    make(clone, "v1.3.0", range(810, 812), parent="v1.2.0")
    clone.repository.pull(["v1.3.0", "v1.1.0"])
    assert len(verify_some(clone, ["v1.0.0", "v1.1.0", "v1.2.0", "v1.3.0"])) == 4
    other = DatasetManager(DvcRepository.clone(str(git), tmp_path / "other").folder)
    other.repository.pull()
    assert len(verify_all(other.repository.folder)) == 4


def test_a_cache_that_was_deleted_comes_back_from_the_remote(
    s3_server_rclone, families, tmp_path, monkeypatch
):
    publish(families, s3_server_rclone, tmp_path, monkeypatch)
    before = verify_all(families.repository.folder)
    shutil.rmtree(families.repository.folder / ".dvc" / "cache")

    with pytest.raises(RetrainError, match="not on this machine"):
        DatasetManager(families.repository.folder).verify("v1.1.0")
    families.repository.pull(["v1.1.0"])
    assert DatasetManager(families.repository.folder).verify("v1.1.0").digest == before["v1.1.0"]
    families.repository.pull()

    assert verify_all(families.repository.folder) == before


@pytest.fixture
def mortal_server(tmp_path):
    """An S3 server of its own that can be ended and started again on the same port and data."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    data = tmp_path / "rclone-data"
    data.mkdir()
    (data / "bucket").mkdir()
    program = shutil.which("rclone", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    command = [program, "serve", "s3", str(data), "--addr", f"127.0.0.1:{port}", "--config", ""]
    command += ["--auth-key", "key,secret-secret", "--dir-cache-time", "1s", "--no-cleanup"]
    running = []

    def start():
        running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            time.sleep(0.05)
        raise AssertionError("rclone does not answer")

    def end():
        running[-1].send_signal(signal.SIGKILL)
        running[-1].wait()

    start()
    yield f"http://127.0.0.1:{port}", start, end, data / "bucket"
    end()


@pytest.mark.parametrize("direction", ["push", "pull"])
def test_a_server_killed_in_the_middle_is_said_and_the_next_run_completes(
    families, mortal_server, monkeypatch, direction
):
    url, start, end, data = mortal_server
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    before = verify_all(families.repository.folder)
    families.repository.add_remote("store", "s3://bucket/datasets", url)
    if direction == "pull":
        families.repository.push()
        shutil.rmtree(families.repository.folder / ".dvc" / "cache")
    arriving = data if direction == "push" else families.repository.folder / ".dvc" / "cache"
    call = getattr(families.repository, direction)
    watcher = threading_kill_when(lambda: any(path.is_file() for path in arriving.rglob("*")), end)

    said = ""
    try:
        call()
    except RetrainError as problem:
        said = str(problem)
    watcher.join()
    # A pull may be over before the server is gone.
    assert direction == "pull" or "dvc" in said
    start()
    call()

    assert verify_all(families.repository.folder) == before


@pytest.mark.parametrize("work", ["push", "materialise"])
def test_a_disk_that_is_full_is_said_and_the_next_run_completes(small_disk, families_folder, work):
    folder = small_disk / "datasets"
    shutil.copytree(families_folder, folder, symlinks=True)
    manager = DatasetManager(folder)
    manager.repository.add_remote("store", str(small_disk / "store"))
    version = manager.get_version("v1.0.0")
    act = {
        "push": manager.repository.push,
        "materialise": lambda: materialise(version, manager, None, small_disk / "ready"),
    }[work]
    space = os.statvfs(small_disk)
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"\0" * (space.f_bavail * space.f_frsize))

    with pytest.raises(StorageFull, match=r"No space left in .*Nothing is lost"):
        act()
    ballast.unlink()
    act()

    assert len(verify_all(folder)) == 3


def threading_kill_when(is_so, act):
    def watch():
        deadline = time.monotonic() + 30
        while not is_so() and time.monotonic() < deadline:
            time.sleep(0.002)
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_the_next_version_starts_from_the_newest_but_not_from_a_subset_or_its_children(manager, build):
    manager.subset("north", "v1.0.0", "camera=camera-0")
    assert manager.newest() == "v1.0.0"
    build.version(manager, "north-2", range(60, 62), parent="north")
    assert manager.newest() == "v1.0.0"

    build.version(manager, "v1.1.0", range(30, 34), parent="v1.0.0")
    assert manager.newest() == "v1.1.0"
    manager.revert("v1.2.0", "v1.0.0")

    assert manager.newest() == "v1.2.0"
    assert DatasetManager(manager.repository.folder.with_name("none")).newest() is None


def test_a_remote_is_asked_for_by_name_and_never_replaced_in_silence(manager, tmp_path):
    for send in (manager.repository.push, manager.repository.pull):
        with pytest.raises(
            NotFound, match="has no remote for its data; set one with `retrain dataset remote add"
        ):
            send()
    manager.repository.add_remote("store", str(tmp_path / "one"))
    manager.repository.add_remote("store", str(tmp_path / "one"))

    with pytest.raises(Conflict, match=r"Remote store of .* is .*/one\. Replace it \(--replace\)"):
        manager.repository.add_remote("store", str(tmp_path / "two"))
    manager.repository.add_remote("store", str(tmp_path / "two"), replace=True)
    manager.repository.push()

    assert (tmp_path / "two").is_dir()


def test_a_version_whose_images_were_forgotten_since_says_why_it_cannot_be_made_again(manager, build):
    image = manager.get_version("v1.0.0").items[0].image
    build.version(manager, "v1.1.0", range(30, 34), parent="v1.0.0")
    manager.forget([image], "request 7")

    with pytest.raises(Conflict, match=r"1 of its images were forgotten since, so it cannot be made again"):
        build.version(manager, "v1.1.0", range(30, 34), parent="v1.0.0")


def test_a_name_that_is_a_tag_is_refused_before_any_work(manager):
    manager.tag("production", "v1.0.0")

    with pytest.raises(Conflict, match="production is a tag already; untag it first"):
        manager.create_version("production", parent="v1.0.0")
    manager.untag("production")

    assert manager.create_version("production", parent="v1.0.0").parent == "v1.0.0"
