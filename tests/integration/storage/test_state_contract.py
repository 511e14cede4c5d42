"""What the state promises on SQLite and on a real Postgres: isolation, one writer, words for what goes wrong."""

import multiprocessing
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, insert, inspect, select, text, update
from sqlalchemy.exc import IntegrityError

from retrain.errors import BadInput, ConfigError, Unavailable
from retrain.storage.schema import aliases, metadata
from retrain.storage.state import open_state

ROW = {"model": "digits", "alias": "champion", "digest": "0", "version": "1", "revision": 0, "moved_at": 0.0}


def count(state) -> int:
    with state.read() as connection:
        return connection.execute(select(func.count()).select_from(aliases)).scalar_one()


def revision(connection) -> int:
    return connection.execute(select(aliases.c.revision)).scalar_one()


@pytest.fixture
def with_row(state):
    with state.write() as connection:
        connection.execute(insert(aliases).values(ROW))
    return state


def test_every_table_exists_after_opening_and_opening_again_keeps_the_rows(with_row, state_url):
    again = open_state(state_url)
    with again.read() as connection:
        assert set(inspect(connection).get_table_names()) == set(metadata.tables)
        assert connection.execute(select(aliases)).mappings().one() == ROW
    again.close()


def test_a_block_that_raises_leaves_nothing(state):
    with pytest.raises(ZeroDivisionError), state.write() as connection:
        connection.execute(insert(aliases).values(ROW))
        _ = 1 / 0
    assert count(state) == 0


def test_a_broken_unique_key_stays_an_integrity_error_and_undoes_the_block(with_row):
    with pytest.raises(IntegrityError), with_row.write() as connection:
        connection.execute(insert(aliases).values(ROW | {"alias": "challenger"}))
        connection.execute(insert(aliases).values(ROW))
    assert count(with_row) == 1


def test_reading_cannot_write(with_row):
    with pytest.raises(BadInput, match=r"read\(\).*use write\(\)"), with_row.read() as connection:
        connection.execute(update(aliases).values(revision=9))
    with with_row.write() as connection:
        assert revision(connection) == 0


def test_write_inside_write_is_refused_at_once(state):
    with state.write(), pytest.raises(BadInput, match="pass the open connection"), state.write():
        pass
    with state.write() as connection:
        connection.execute(insert(aliases).values(ROW))


def test_a_reader_neither_waits_for_a_writer_nor_sees_its_half(with_row):
    started = time.monotonic()
    with with_row.write() as writer:
        writer.execute(update(aliases).values(revision=1))
        with with_row.read() as reader:
            assert revision(reader) == 0
    assert time.monotonic() - started < 5
    with with_row.read() as reader:
        assert revision(reader) == 1


def test_a_reader_keeps_its_view_while_a_writer_commits(with_row):
    with with_row.read() as reader:
        assert revision(reader) == 0
        with with_row.write() as writer:
            writer.execute(update(aliases).values(revision=1))
        assert revision(reader) == 0


def test_threads_that_read_then_write_lose_no_update(with_row):
    def add_one(_):
        with with_row.write() as connection:
            seen = revision(connection)
            connection.execute(update(aliases).values(revision=seen + 1))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add_one, range(80)))
    with with_row.read() as connection:
        assert revision(connection) == 80


def test_processes_that_read_then_write_lose_no_update(with_row, state_url):
    run_together(3, open_and_add_twenty, state_url)
    with with_row.read() as connection:
        assert revision(connection) == 60


def open_and_add_twenty(_together, url):
    add_twenty(open_state(url))


def test_processes_that_open_a_new_database_at_once_all_succeed(state_url):
    run_together(6, open_together, state_url)


def open_together(together, url):
    together.wait()
    open_state(url).close()


def run_together(number, target, *arguments):
    """Run `target` in so many processes, handing it a barrier for them all; none may fail."""
    fork = multiprocessing.get_context("fork")
    together = fork.Barrier(number)
    processes = [fork.Process(target=target, args=(together, *arguments)) for _ in range(number)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * number


def test_parent_and_forked_children_can_write_through_one_store_at_once(with_row):
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=add_twenty, args=(with_row,)) for _ in range(3)]
    for child in children:
        child.start()
    add_twenty(with_row)
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0, 0]
    with with_row.read() as connection:
        assert revision(connection) == 80


def add_twenty(state):
    for _ in range(20):
        with state.write() as connection:
            seen = revision(connection)
            connection.execute(update(aliases).values(revision=seen + 1))


def test_a_writer_that_waits_too_long_says_who_is_in_the_way(with_row, monkeypatch, state_url):
    monkeypatch.setattr("retrain.storage.state.LOCK_WAIT_S", 1)
    impatient = open_state(state_url)
    inside, done = threading.Event(), threading.Event()

    def hold():
        with with_row.write():
            inside.set()
            done.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    inside.wait(10)
    try:
        with pytest.raises(Unavailable, match="locked for 1 s"), impatient.write():
            pass
    finally:
        done.set()
        holder.join()
        impatient.close()


def test_a_connection_that_the_server_closed_is_replaced(postgres_url):
    state = open_state(postgres_url)
    with state.write() as connection:
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    other = open_state(postgres_url)
    with other.write() as connection:
        connection.execute(text(f"SELECT pg_terminate_backend({pid})"))
    assert count(state) == 0
    with pytest.raises(Unavailable, match="does not answer"), state.write() as connection:
        connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    assert count(state) == 0
    state.close()
    other.close()


def test_a_wrong_password_is_unavailable_and_never_printed(postgres_url):
    login, _, place = postgres_url.partition("@")
    wrong = login.rpartition(":")[0] + ":hunter2@" + place
    with pytest.raises(
        Unavailable, match=r"Postgres at 127\.0\.0\.1:\d+/test_.*password authentication"
    ) as caught:
        open_state(wrong)
    assert "hunter2" not in str(caught.value)


def test_a_missing_database_is_unavailable_and_named(postgres_server):
    with pytest.raises(Unavailable, match='"no_such_database" does not exist'):
        open_state(postgres_server.removesuffix("/postgres") + "/no_such_database")


def test_a_server_that_is_down_is_unavailable_and_the_password_is_not_printed():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(
        Unavailable, match=rf"Postgres at 127\.0\.0\.1:{port}/state does not answer"
    ) as caught:
        open_state(f"postgresql://retrain:hunter2@127.0.0.1:{port}/state")
    chain = [caught.value]
    while cause := chain[-1].__cause__:
        chain.append(cause)
    assert len(chain) > 1
    assert "hunter2" not in " ".join(map(str, chain))


def test_a_state_of_another_version_is_refused_in_words_and_left_as_it_is(state, state_url):
    with state.write() as connection:
        connection.exec_driver_sql("ALTER TABLE cycles DROP COLUMN outcome")

    with pytest.raises(
        ConfigError, match=r"made by another version of Retrain: its table cycles has no outcome\. Nothing"
    ):
        open_state(state_url)
