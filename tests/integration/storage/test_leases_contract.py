"""What leases promise on SQLite and Postgres, to processes that die, freeze or start together."""

import multiprocessing
import os
import signal
import time

import pytest
from sqlalchemy import select, update

from retrain.errors import Active, BadInput, Conflict, LeaseLost, Unavailable
from retrain.storage.journal import Journal
from retrain.storage.leases import LeaseManager
from retrain.storage.schema import leases
from retrain.storage.state import open_state


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self):
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def manager(state, clock):
    return LeaseManager(state, clock)


def expires_at(state) -> float:
    with state.read() as connection:
        return connection.execute(select(leases.c.expires_at)).scalar_one()


def check(state, lease) -> None:
    with state.write() as connection:
        lease.check(connection)


def test_a_second_holder_is_told_who_holds_it_and_until_when(manager):
    with manager.acquire("digits", 60), pytest.raises(Conflict) as caught:
        manager.acquire("digits", 60)
    assert f":{os.getpid()} until 1970-01-01T00:17:40+00:00" in str(caught.value)
    assert str(caught.value).startswith("lease 'digits' is active: held by ")


def test_asking_whether_it_is_held_follows_the_rule_of_acquire_and_takes_nothing(manager, state, clock):
    assert not manager.is_held("digits")
    lease = manager.acquire("digits", 60)
    assert manager.is_held("digits")
    assert not manager.is_held("letters")
    check(state, lease)
    clock.now += 60
    assert not manager.is_held("digits")
    lease.release()
    with manager.acquire("digits", 60) as next_one:
        assert next_one.token == lease.token + 1
        set_holder(state, lambda host, pid, started, nonce: (host, pid, "1", nonce))
        assert not manager.is_held("digits"), "its process is gone"
        set_holder(state, lambda host, pid, started, nonce: ("elsewhere", pid, started, nonce))
        assert manager.is_held("digits")
    assert not manager.is_held("digits")


def test_only_a_lease_that_somebody_holds_is_called_active(manager, state):
    with manager.acquire("digits", 60) as lease, pytest.raises(Active):
        manager.acquire("digits", 60)
    with pytest.raises(Conflict) as caught:
        check(state, lease)
    assert not isinstance(caught.value, Active)


def test_names_do_not_hinder_each_other(manager, state):
    with manager.acquire("digits", 60) as one, manager.acquire("letters", 60) as other:
        check(state, one)
        check(state, other)


def test_each_acquisition_has_a_greater_token_even_after_a_release(manager):
    tokens = []
    for _ in range(3):
        with manager.acquire("digits", 60) as lease:
            tokens.append(lease.token)
    assert tokens == [1, 2, 3]


def test_an_expired_lease_passes_on_and_the_old_holder_cannot_check_renew_or_release(manager, state, clock):
    stale = manager.acquire("digits", 60)
    clock.now += 60
    fresh = manager.acquire("digits", 60)
    assert fresh.token == stale.token + 1
    with pytest.raises(LeaseLost, match=f"token {stale.token} is no longer ours .*token {fresh.token}"):
        check(state, stale)
    with pytest.raises(LeaseLost):
        stale.renew()
    stale.release()
    check(state, fresh)
    fresh.release()


def test_an_expired_lease_that_nobody_took_is_still_ours(manager, state, clock):
    with manager.acquire("digits", 60) as lease:
        clock.now += 1_000
        check(state, lease)
        lease.renew()
        assert expires_at(state) == clock.now + 60


def test_a_released_lease_no_longer_checks_and_can_be_released_again(manager, state):
    lease = manager.acquire("digits", 60)
    lease.release()
    lease.release()
    with pytest.raises(LeaseLost, match="held by nobody"):
        check(state, lease)


def test_a_lost_lease_undoes_the_write_it_was_to_protect(manager, state, clock):
    stale = manager.acquire("digits", 60)
    clock.now += 60
    entries = Journal(state, "s")
    with manager.acquire("digits", 60):
        with pytest.raises(LeaseLost), state.write() as connection:
            entries.append("promoted", "x", {}, 1.0, connection)
            stale.check(connection)
        assert entries.entries() == []


def test_the_thread_renews_before_the_lease_expires(state):
    manager = LeaseManager(state)
    with manager.acquire("digits", 0.6):
        time.sleep(1.2)
        with pytest.raises(Conflict):
            manager.acquire("digits", 60)


def test_renewal_goes_on_after_the_database_was_away(state, monkeypatch, caplog):
    manager = LeaseManager(state)
    write, failures = state.write, []

    def write_with_two_failures():
        if len(failures) < 2:
            failures.append(1)
            raise Unavailable("the database restarts")
        return write()

    with manager.acquire("digits", 0.9):
        first = expires_at(state)
        monkeypatch.setattr(state, "write", write_with_two_failures)
        time.sleep(1.6)
        assert expires_at(state) > first
    assert "was not renewed, trying again: the database restarts" in caplog.text


@pytest.mark.parametrize(("name", "ttl_s"), [("", 60), ("x" * 251, 60), ("digits", 0), ("digits", -1)])
def test_a_lease_that_makes_no_sense_is_refused(manager, name, ttl_s):
    with pytest.raises(BadInput):
        manager.acquire(name, ttl_s)


class Holder:
    """A process that takes the lease when told to, then checks it when told to."""

    def __init__(self, url, ttl_s):
        fork = multiprocessing.get_context("fork")
        self.pipe, theirs = fork.Pipe()
        self.process = fork.Process(target=self.hold, args=(theirs, url, ttl_s))
        self.process.start()
        assert self.hear() == "ready"

    @staticmethod
    def hold(pipe, url, ttl_s):
        state = open_state(url)
        pipe.send("ready")
        pipe.recv()
        try:
            lease = LeaseManager(state).acquire("digits", ttl_s)
        except Conflict:
            pipe.send("conflict")
            return
        pipe.send(lease.token)
        pipe.recv()
        try:
            check(state, lease)
            pipe.send("held")
        except LeaseLost:
            pipe.send("lost")

    def tell(self):
        self.pipe.send("go on")

    def hear(self):
        assert self.pipe.poll(30), "the holder does not answer"
        return self.pipe.recv()


@pytest.fixture
def start_holder(state_url, state):
    holders = []

    def start(ttl_s):
        holders.append(Holder(state_url, ttl_s))
        return holders[-1]

    yield start
    for holder in holders:
        holder.process.kill()
        holder.process.join()


def test_of_processes_that_start_together_exactly_one_gets_it(start_holder):
    holders = [start_holder(60) for _ in range(5)]
    for holder in holders:
        holder.tell()
    assert sorted(str(holder.hear()) for holder in holders) == ["1"] + ["conflict"] * 4


@pytest.mark.parametrize("reaped", [True, False])
def test_a_killed_holder_is_replaced_at_once(start_holder, state, reaped):
    holder = start_holder(3600)
    holder.tell()
    assert holder.hear() == 1
    manager = LeaseManager(state)
    with pytest.raises(Conflict, match=f":{holder.process.pid} until"):
        manager.acquire("digits", 60)
    os.kill(holder.process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, holder.process.pid, os.WEXITED | (0 if reaped else os.WNOWAIT))
    with manager.acquire("digits", 60) as lease:
        assert lease.token == 2


def test_a_holder_that_slept_too_long_finds_its_lease_lost(start_holder, state):
    holder = start_holder(0.5)
    holder.tell()
    assert holder.hear() == 1
    os.kill(holder.process.pid, signal.SIGSTOP)
    time.sleep(0.6)
    with LeaseManager(state).acquire("digits", 60) as lease:
        assert lease.token == 2
        os.kill(holder.process.pid, signal.SIGCONT)
        holder.tell()
        assert holder.hear() == "lost"


def set_holder(state, change) -> None:
    with state.write() as connection:
        holder = connection.execute(select(leases.c.holder)).scalar_one()
        connection.execute(update(leases).values(holder=":".join(change(*holder.rsplit(":", 3)))))


def test_a_process_id_used_again_does_not_pass_for_the_old_holder(manager, state):
    manager.acquire("digits", 60)
    set_holder(state, lambda host, pid, started, nonce: (host, pid, "1", nonce))
    manager.acquire("digits", 60).release()


def test_a_holder_on_another_host_is_believed_to_live(manager, state):
    manager.acquire("digits", 60)
    set_holder(state, lambda host, _pid, started, nonce: ("elsewhere", "999999999", started, nonce))
    with pytest.raises(Conflict, match="held by elsewhere:999999999 until"):
        manager.acquire("digits", 60)
