import os
import time

import numpy as np
import pynvml
import pytest

from retrain.training.usage import Usage


def test_busy_cores_are_told_apart_from_idle_ones():
    usage = Usage("cpu", time.perf_counter)
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    busy = usage.read()["cpu_cores"]
    usage.start()
    time.sleep(0.3)

    assert usage.read()["cpu_cores"] < 0.1
    # Others may hold this one up, but what it worked is known.
    assert 0.05 < busy < 1.5


def test_memory_is_that_of_this_process_and_its_children():
    usage = Usage("cpu", time.perf_counter)
    before = usage.read()["memory_mib"]
    kept = np.ones(2**23)

    assert usage.read()["memory_mib"] - before == pytest.approx(64, abs=16)
    ready, started = os.pipe()
    end, ended = os.pipe()
    if os.fork() == 0:
        block = np.ones(2**23)
        os.write(started, b"x")
        os.read(end, 1)
        os._exit(int(block[0]) - 1)
    os.read(ready, 1)
    with_child = usage.read()["memory_mib"]
    os.write(ended, b"x")
    os.wait()
    assert with_child - before > 2 * 64
    assert kept[0] == 1


def test_a_gpu_is_asked_only_where_there_is_one():
    usage = Usage("cpu", time.perf_counter)
    usage.batch()

    assert set(usage.read()) == {"cpu_cores", "memory_mib"}


def test_figures_of_a_gpu_are_its_peak_of_memory_and_how_long_it_worked(monkeypatch):
    percents = iter([40, 80])
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr("torch.cuda.utilization", lambda: next(percents))
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda: 3 * 2**20)
    usage = Usage("cuda", time.perf_counter)
    for _ in range(51):
        usage.batch()

    told = usage.read()

    assert (told["gpu_memory_mib"], told["gpu_percent"]) == (3.0, 60.0)


def test_a_gpu_that_tells_nothing_stops_no_training(monkeypatch, caplog):
    def refuse() -> int:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr("torch.cuda.utilization", refuse)
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda: 0)
    usage = Usage("cuda", time.perf_counter)
    for _ in range(101):
        usage.batch()

    assert "gpu_percent" not in usage.read()
    assert caplog.text.count("cannot be told") == 1
