import fcntl
import multiprocessing
import os
import signal
import sys
import threading

import pytest

from retrain.data_collection.locks import ForkSafeLock, OwnDescriptor, lock_file

fork = multiprocessing.get_context("fork")


@pytest.fixture
def eager_threads():
    """Threads change after every few instructions, so a missing lock shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_only_one_thread_is_inside(eager_threads):
    lock, inside, most = ForkSafeLock(), [], []

    def work():
        for _ in range(300):
            with lock:
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert set(most) == {1}
    assert len(most) == 1200


def test_a_child_forked_while_another_thread_was_inside_can_enter():
    lock, held, release = ForkSafeLock(), threading.Event(), threading.Event()

    def hold():
        with lock:
            held.set()
            release.wait(20)

    def enter():
        with lock:
            pass

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(20)
    child = fork.Process(target=enter)
    child.start()
    child.join(10)
    stuck = child.exitcode is None
    child.kill()
    release.set()
    holder.join()

    assert not stuck
    assert child.exitcode == 0


@pytest.fixture
def other_user():
    """Runs as another user, who may not write what is root's; needs root."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")

    def run(work):
        child = os.fork()
        if child == 0:
            os.setgid(65534)
            os.setuid(65534)
            try:
                os._exit(0 if work() else 1)
            except BaseException as error:
                print(repr(error), file=sys.stderr)
                os._exit(2)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    return run


def test_a_locked_file_is_anothers_until_it_is_unlocked(tmp_path):
    first = lock_file(tmp_path / "lock", wait=False)

    assert lock_file(tmp_path / "lock", wait=False) is None
    first.unlock()
    lock_file(tmp_path / "lock", wait=False).unlock()


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_another_user_can_lock_what_root_made(reachable, other_user, umask):
    before = os.umask(umask)
    try:
        lock_file(reachable / "lock", wait=False).unlock()
    finally:
        os.umask(before)

    assert other_user(lambda: lock_file(reachable / "lock", wait=False) is not None)


def test_a_lock_dies_with_its_process_whatever_that_has_forked(tmp_path):
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:
        lock_file(tmp_path / "lock", wait=False)
        OwnDescriptor(tmp_path, os.O_RDONLY | os.O_DIRECTORY).lock(wait=False)
        child = os.fork()
        if child == 0:
            os.write(write, b"%d" % os.getpid())
            signal.pause()
        signal.pause()
    child = int(os.read(read, 20))
    try:
        assert lock_file(tmp_path / "lock", wait=False) is None
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)

        assert lock_file(tmp_path / "lock", wait=False) is not None
        assert OwnDescriptor(tmp_path, os.O_RDONLY | os.O_DIRECTORY).lock(wait=False)
    finally:
        os.kill(child, signal.SIGKILL)
        os.close(read)
        os.close(write)


def test_a_child_that_leaves_the_block_of_its_parent_does_not_unlock_it(tmp_path):
    lock = lock_file(tmp_path / "lock", wait=False)
    child = os.fork()
    if child == 0:
        lock.unlock()
        os._exit(0)
    os.waitpid(child, 0)

    with (tmp_path / "lock").open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    lock.unlock()


def test_a_fork_waits_for_a_file_that_is_just_being_opened(tmp_path, monkeypatch):
    """Else the child would get a descriptor that it does not know of and never closes."""
    opened, go_on, descriptors = threading.Event(), threading.Event(), []
    original = os.open

    def slow(*arguments):
        number = original(*arguments)
        opened.set()
        go_on.wait(20)
        return number

    monkeypatch.setattr(os, "open", slow)
    opener = threading.Thread(target=lambda: descriptors.append(lock_file(tmp_path / "lock", wait=False)))
    opener.start()
    opened.wait(20)
    threading.Timer(0.2, go_on.set).start()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, b"1")
        signal.pause()
    try:
        os.read(read, 1)
        opener.join(20)
        descriptors[0].close()  # as the kernel does it when the process dies

        assert lock_file(tmp_path / "lock", wait=False) is not None
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read)
        os.close(write)
