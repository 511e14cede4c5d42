import os
import signal
import subprocess
import sys
import threading

import pytest

from retrain.dataset.repository.folder_lock import FolderLock
from retrain.errors import Conflict

HOLD_AND_DIE = """
import os, signal, subprocess, sys
from pathlib import Path
from retrain.dataset.repository.folder_lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
with lock.hold():
    child = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    subprocess.Popen(child, pass_fds=(lock.descriptor,)) if sys.argv[2] == "child" else None
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_one_at_a_time_also_between_threads_and_instances(tmp_path):
    inside, seen = [], []

    def work():
        for _ in range(20):
            with FolderLock(tmp_path / "lock").hold():
                inside.append(1)
                seen.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert seen == [1] * 80


def test_its_holder_may_take_it_again(tmp_path):
    lock = FolderLock(tmp_path / "lock", timeout_s=0)

    with lock.hold(), lock.hold():
        assert lock.descriptor is not None
    assert lock.descriptor is None
    with FolderLock(tmp_path / "lock", timeout_s=0).hold():
        pass


def test_waiting_in_vain_names_the_holder(tmp_path):
    with (
        FolderLock(tmp_path / "lock").hold(),
        pytest.raises(Conflict, match=rf"in use by process {os.getpid()} for more than 0.1 s"),
        FolderLock(tmp_path / "lock", timeout_s=0.1).hold(),
    ):
        pass


def test_the_next_holder_learns_that_the_last_one_was_killed_or_failed(tmp_path):
    path = tmp_path / "lock"
    died = subprocess.run([sys.executable, "-c", HOLD_AND_DIE, str(path), "alone"])
    assert died.returncode == -signal.SIGKILL

    with FolderLock(path).hold() as interrupted:
        assert interrupted
    with FolderLock(path).hold() as interrupted:
        assert not interrupted
    with pytest.raises(ValueError, match="went wrong"), FolderLock(path).hold():
        raise ValueError("went wrong")
    with FolderLock(path).hold() as interrupted:
        assert interrupted


def test_a_child_that_outlives_its_killed_parent_keeps_others_out(tmp_path):
    path = tmp_path / "lock"
    parent = subprocess.Popen([sys.executable, "-c", HOLD_AND_DIE, str(path), "child"], stdin=subprocess.PIPE)
    assert parent.wait() == -signal.SIGKILL

    with (
        pytest.raises(Conflict, match=f"in use by process {parent.pid}"),
        FolderLock(path, timeout_s=0.3).hold(),
    ):
        pass

    parent.stdin.close()
    with FolderLock(path, timeout_s=10).hold() as interrupted:
        assert interrupted
