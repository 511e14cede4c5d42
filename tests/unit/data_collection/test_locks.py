import multiprocessing
import sys
import threading

import pytest

from retrain.data_collection.locks import ForkSafeLock

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
