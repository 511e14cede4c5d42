import os
import signal
import threading

import pytest

from retrain.data_collection.store.work_folders import remove_left_folders, work_folder


def test_a_work_folder_is_there_for_its_block_and_gone_after_it_whatever_happens(tmp_path):
    with pytest.raises(ZeroDivisionError), work_folder(tmp_path / "work") as folder:
        (folder / "file").write_bytes(b"x")
        raise ZeroDivisionError

    assert list((tmp_path / "work").iterdir()) == []


def test_folders_of_a_killed_process_are_removed_and_those_in_use_are_not(tmp_path):
    child = os.fork()
    if child == 0:
        with work_folder(tmp_path) as folder:
            (folder / "image").write_bytes(b"pixels")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(list(tmp_path.iterdir())) == 1

    with work_folder(tmp_path) as mine:
        remove_left_folders(tmp_path)

        assert list(tmp_path.iterdir()) == [mine]


def test_many_can_work_while_others_tidy_up(tmp_path):
    errors, stop = [], threading.Event()

    def tidy():
        while not stop.is_set():
            remove_left_folders(tmp_path)

    def work():
        try:
            for number in range(50):
                with work_folder(tmp_path) as folder:
                    (folder / "file").write_text(str(number))
                    assert (folder / "file").read_text() == str(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    tidying = threading.Thread(target=tidy)
    for thread in (*threads, tidying):
        thread.start()
    for thread in threads:
        thread.join(60)
    stop.set()
    tidying.join(60)

    assert errors == []
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_a_killed_process_is_removed_although_a_child_of_it_lives(tmp_path):
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:
        with work_folder(tmp_path):
            if os.fork() == 0:
                os.write(write, b"%d" % os.getpid())
                signal.pause()
            signal.pause()
    child = int(os.read(read, 20))
    try:
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        assert len(list(tmp_path.iterdir())) == 1

        remove_left_folders(tmp_path)

        assert list(tmp_path.iterdir()) == []
    finally:
        os.kill(child, signal.SIGKILL)
        os.close(read)
        os.close(write)
