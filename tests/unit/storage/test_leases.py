"""The lease in one process; processes that die and Postgres are in tests/integration/storage."""

import os
import threading

import pytest

from retrain.errors import Active, Conflict, LeaseLost
from retrain.storage.leases import LeaseManager


def test_a_lease_excludes_the_same_process_too_and_names_it(state):
    manager = LeaseManager(state, lambda: 0.0)
    with (
        manager.acquire("digits", 60),
        pytest.raises(Active, match=rf"'digits' is active: held by .*:{os.getpid()} "),
    ):
        manager.acquire("digits", 60)
    manager.acquire("digits", 60).release()


def test_threads_that_start_together_get_one_lease_between_them(state):
    manager, together, got = LeaseManager(state), threading.Barrier(8), []

    def try_once():
        together.wait()
        try:
            got.append(manager.acquire("digits", 60).token)
        except Conflict:
            got.append("conflict")

    threads = [threading.Thread(target=try_once) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, got)) == ["1"] + ["conflict"] * 7


def test_a_newer_token_beats_an_older_one(state):
    now = [0.0]
    manager = LeaseManager(state, lambda: now[0])
    stale = manager.acquire("digits", 60)
    now[0] = 61
    with manager.acquire("digits", 60) as fresh, state.write() as connection:
        assert fresh.token > stale.token
        fresh.check(connection)
        with pytest.raises(LeaseLost):
            stale.check(connection)
    stale.release()


def test_an_error_in_the_block_frees_the_lease_and_is_not_hidden(state):
    manager = LeaseManager(state)
    with pytest.raises(ZeroDivisionError), manager.acquire("digits", 60):
        _ = 1 / 0
    manager.acquire("digits", 60).release()


def test_no_renewal_thread_is_left_after_release(state):
    with LeaseManager(state).acquire("alone", 60):
        assert "lease-alone" in {thread.name for thread in threading.enumerate()}
    assert "lease-alone" not in {thread.name for thread in threading.enumerate()}
