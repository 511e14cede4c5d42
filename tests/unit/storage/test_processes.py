import subprocess
import sys
import time

import psutil

from retrain.storage.processes import start_mark


def test_the_mark_of_a_process_stays_when_the_clock_is_set(monkeypatch):
    before, created, booted = start_mark(psutil.Process()), psutil.Process().create_time(), psutil.boot_time()

    # psutil adds the time of boot, which the kernel computes anew from a clock that was set.
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: booted - 7200)

    assert psutil.Process().create_time() < created - 3600
    assert start_mark(psutil.Process()) == before


def test_two_processes_have_different_marks():
    time.sleep(0.05)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert start_mark(psutil.Process(child.pid)) != start_mark(psutil.Process())
    finally:
        child.communicate(b"\n")
