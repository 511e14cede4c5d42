import os
import shutil
import subprocess

import pytest

from retrain.dataset.manager import DatasetManager
from retrain.errors import StorageFull, Unavailable


def test_a_full_disk_while_packing_loses_nothing_and_the_next_run_completes(
    small_disk, first_version_folder, build
):
    folder = small_disk / "datasets"
    shutil.copytree(first_version_folder, folder, symlinks=True)
    manager = DatasetManager(folder)
    draft = manager.create_version("v1.1.0", parent="v1.0.0")
    build.fill(manager, draft, range(100, 102), side=256)
    ballast = small_disk / "ballast"
    fill_up(ballast, leave=600_000)

    with pytest.raises(StorageFull, match=rf"No space left in {folder}\. Nothing is lost: free some space"):
        build.fill(manager, draft, range(102, 110), side=256)

    assert DatasetManager(folder).versions() == ["v1.0.0"]
    assert manager.verify("v1.0.0").name == "v1.0.0"
    ballast.unlink()
    build.fill(manager, draft, range(102, 110), side=256)
    assert len(DatasetManager(folder).commit("v1.1.0").items) == 34


@pytest.mark.parametrize("leave", [0, 20_000, 60_000, 150_000])
def test_wherever_the_disk_becomes_full_it_is_said_in_words(small_disk, first_version_folder, build, leave):
    folder = small_disk / "datasets"
    shutil.copytree(first_version_folder, folder, symlinks=True)
    manager = DatasetManager(folder)
    draft = manager.create_version("v1.1.0", parent="v1.0.0")
    build.fill(manager, draft, range(100, 104), side=64)
    ballast = small_disk / "ballast"
    fill_up(ballast, leave)

    try:
        manager.commit("v1.1.0")
        assert leave >= 60_000
    except StorageFull:
        assert manager.verify("v1.0.0").name == "v1.0.0"
    ballast.unlink()

    assert len(DatasetManager(folder).commit("v1.1.0").items) == 28
    assert build.git(folder, "tag").split() == ["v1.0.0", "v1.1.0"]


@pytest.fixture
def read_only_folder(first_version_folder, tmp_path, request):
    """A copy of the dataset below a folder that this user cannot write."""
    if os.getuid() == 0:
        disk = request.getfixturevalue("small_disk")
        shutil.copytree(first_version_folder, disk / "datasets", symlinks=True)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        yield disk / "datasets"
        return
    disk = tmp_path / "locked"
    shutil.copytree(first_version_folder, disk / "datasets", symlinks=True)
    folders = [disk, *(path for path in disk.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    yield disk / "datasets"
    for path in folders:
        path.chmod(0o755)


def test_a_folder_that_cannot_be_written_can_be_read_and_says_so_when_written(read_only_folder):
    manager = DatasetManager(read_only_folder)

    version = manager.verify("v1.0.0")

    assert manager.image_bytes(version, version.items[0])
    with pytest.raises(
        Unavailable, match=r"No permission to write in .*datasets.* set dataset.versions_path"
    ):
        manager.create_version("v1.1.0", parent="v1.0.0")
    with pytest.raises(Unavailable, match=r"No permission to write in"):
        DatasetManager(read_only_folder.with_name("new")).create_version("v1.0.0", classes=["a"])


def fill_up(path, leave):
    """Write a file that leaves about this many bytes on its file system."""
    space = os.statvfs(path.parent)
    path.write_bytes(b"\0" * max(0, space.f_bavail * space.f_frsize - leave))
