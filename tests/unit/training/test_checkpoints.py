import errno
import hashlib
import io
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NoReturn

import numpy as np
import pytest
import torch

from retrain.errors import BadInput, NotFound, StorageFull, Unavailable
from retrain.storage.local_blobs import LocalBlobs
from retrain.training import checkpoint_file, checkpoints
from retrain.training.checkpoints import CheckpointManager, Position


def state(number: float) -> dict[str, object]:
    return {"weights": torch.full((100,), float(number)), "reports": [{"epoch": number}]}


def saved(folder: Path, epochs: int, keep: int = 2) -> CheckpointManager:
    manager = CheckpointManager(folder, keep)
    for epoch in range(1, epochs + 1):
        manager.save(Position(epoch), state(epoch))
    return manager


def number_of(found: tuple[Position, dict[str, object]] | None) -> float:
    assert found is not None
    weights = found[1]["weights"]
    assert isinstance(weights, torch.Tensor)
    return float(weights[0])


def test_state_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    shared = torch.arange(6.0)
    given = {
        "nested": {
            "half": torch.ones(3, dtype=torch.float16),
            "view": shared[2:4],
            "nan": torch.tensor(np.nan),
        },
        "plain": [1, 2.5, "text", None, True, b"bytes", (1, 2)],
    }
    manager = CheckpointManager(tmp_path)
    manager.save(Position(0, 7), given)
    loaded = manager.load(Position(0, 7))
    assert loaded["plain"] == given["plain"]
    assert torch.equal(loaded["nested"]["half"], torch.ones(3, dtype=torch.float16))
    assert torch.equal(loaded["nested"]["view"], torch.tensor([2.0, 3.0]))
    assert torch.isnan(loaded["nested"]["nan"])


def test_files_of_the_first_format_can_be_read(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"weights": torch.ones(4)}, buffer)
    sha256 = hashlib.sha256(buffer.getvalue()).hexdigest().encode()
    (tmp_path / "epoch-00004.ckpt").write_bytes(b"retrain-checkpoint-1\n" + sha256 + buffer.getvalue())
    assert torch.equal(CheckpointManager(tmp_path).load(Position(4))["weights"], torch.ones(4))


@pytest.mark.parametrize(
    ("keep", "saves", "left"),
    [
        (2, [(1, 0), (2, 0), (3, 0), (4, 0)], [(3, 0), (4, 0)]),
        (1, [(1, 0), (2, 0)], [(2, 0)]),
        (2, [(0, 40), (0, 80)], [(0, 80)]),
        (2, [(0, 40), (1, 0)], [(1, 0)]),
        (2, [(1, 0), (1, 40), (1, 80)], [(1, 0), (1, 80)]),
        (2, [(1, 0), (2, 0), (2, 40)], [(1, 0), (2, 0), (2, 40)]),
        (2, [(1, 0), (2, 0), (2, 40), (3, 0)], [(2, 0), (3, 0)]),
        # What is newer than the last save is somebody else's: it neither goes nor counts.
        (1, [(5, 0), (2, 0), (3, 0)], [(3, 0), (5, 0)]),
        (1, [(5, 40), (2, 0), (2, 40)], [(2, 0), (2, 40), (5, 40)]),
    ],
)
def test_what_is_kept(
    keep: int, saves: list[tuple[int, int]], left: list[tuple[int, int]], tmp_path: Path
) -> None:
    mirror = LocalBlobs(tmp_path / "mirror")
    manager = CheckpointManager(tmp_path / "here", keep, mirror, "a/b")
    for epoch, images in saves:
        manager.save(Position(epoch, images), state(epoch))
    expected = [Position(*position) for position in left]
    assert manager.positions() == expected
    assert list(mirror.keys()) == [f"a/b/{name}" for name in sorted(p.file_name for p in expected)]


def test_names_of_files() -> None:
    assert Position(3).file_name == "epoch-00003.ckpt"
    assert Position(2, 120).file_name == "epoch-00002-images-0000000120.ckpt"
    assert sorted([Position(3), Position(2, 120), Position(2)]) == [
        Position(2),
        Position(2, 120),
        Position(3),
    ]
    for position in (Position(0), Position(99_999, 10**10 - 1)):
        assert Position.of(position.file_name) == position
    for other in (
        "epoch-1.ckpt",
        "epoch-00001-images-0000000000.ckpt",
        ".epoch-00001.ckpt.1.partial",
        "best.json",
    ):
        assert Position.of(other) is None


@pytest.mark.parametrize(("epoch", "images"), [(-1, 0), (0, -1), (100_000, 0), (0, 10**10)])
def test_impossible_positions_are_refused(epoch: int, images: int) -> None:
    with pytest.raises(BadInput, match=str(max(abs(epoch), abs(images)))):
        Position(epoch, images)


def test_at_least_one_is_kept(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="keep=0"):
        CheckpointManager(tmp_path, keep=0)


def test_a_bad_prefix_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="blob key"):
        CheckpointManager(tmp_path / "a", mirror=LocalBlobs(tmp_path / "b"), prefix="../x")


def torn(length: int):
    return lambda path: os.truncate(path, length)


def bit_flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def of_another_kind(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"retrain-checkpoint-1\n", b"retrain-checkpoint-9\n"))


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


DAMAGES = [torn(0), torn(5), torn(60), torn(85), torn(300), bit_flipped, of_another_kind, longer]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("newest", [Position(3), Position(2, 40)])
def test_damaged_newest_is_removed_and_the_one_before_it_used(
    newest: Position, damage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manager = saved(tmp_path, 2)
    damage(manager.save(newest, state(3)))
    with pytest.raises(BadInput, match="damaged"):
        manager.load(newest)
    found = manager.newest_good()
    assert number_of(found) == 2.0
    assert found is not None
    assert found[0] == Position(2)
    assert newest not in manager.positions()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert newest.file_name in caplog.text


def test_nothing_whole_means_no_checkpoint(tmp_path: Path) -> None:
    manager = saved(tmp_path, 2)
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    assert manager.newest_good() is None
    with pytest.raises(NotFound, match="nothing"):
        manager.load(Position(2))


def test_a_checkpoint_that_cannot_be_read_is_kept_and_never_means_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = saved(tmp_path, 2)
    unreadable = {"epoch-00002.ckpt"}
    read = checkpoints.read_checkpoint

    def sometimes(path: Path) -> dict[str, object]:
        if path.name in unreadable:
            raise Unavailable("Input/output error")
        return read(path)

    monkeypatch.setattr(checkpoints, "read_checkpoint", sometimes)
    assert number_of(manager.newest_good()) == 1.0
    unreadable.add("epoch-00001.ckpt")
    with pytest.raises(Unavailable, match="Input/output error"):
        manager.newest_good()
    assert manager.positions() == [Position(1), Position(2)]


def test_looking_leaves_what_another_is_writing(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    being_written = tmp_path / ".epoch-00002.ckpt.abc.partial"
    being_written.write_bytes(b"half")
    looking = CheckpointManager(tmp_path)
    assert looking.positions() == [Position(1)]
    assert number_of(looking.newest_good()) == 1.0
    assert being_written.exists()


@pytest.mark.parametrize("then", ["save", "clear"])
def test_leftovers_of_a_killed_writer_are_removed(then: str, tmp_path: Path) -> None:
    (tmp_path / ".epoch-00002.ckpt.abc.partial").write_bytes(b"half")
    manager = saved(tmp_path, 1) if then == "save" else CheckpointManager(tmp_path)
    if then == "clear":
        manager.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-00001.ckpt"][: then == "save"]


def test_no_space_leaves_the_earlier_checkpoint_and_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = saved(tmp_path, 1)

    def full(_: int) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFull, match=str(tmp_path)):
        manager.save(Position(2), state(2))
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-00001.ckpt"]


@pytest.mark.parametrize(
    "value",
    [np.float64(1), np.arange(3), Path("x"), lambda: 0, open, [(1, {"deep": {1, 2}})], {Path("x"): 1}],
    ids=lambda value: type(value).__name__,
)
def test_a_state_that_could_not_be_loaded_is_refused_when_it_is_saved(value: object, tmp_path: Path) -> None:
    manager = saved(tmp_path, 1, keep=1)
    with pytest.raises(BadInput, match="only tensors and plain values"):
        manager.save(Position(2), {"value": value})
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-00001.ckpt"]
    assert number_of(manager.newest_good()) == 1.0


def test_pickled_code_is_never_run(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "owned"),)

    buffer = io.BytesIO()
    torch.save({"weights": Attack()}, buffer)
    payload = buffer.getvalue()
    header = b"retrain-checkpoint-1\n" + hashlib.sha256(payload).hexdigest().encode()
    (tmp_path / "epoch-00001.ckpt").write_bytes(header + payload)
    with pytest.raises(BadInput, match="mkdir"):
        CheckpointManager(tmp_path).load(Position(1))
    assert not (tmp_path / "owned").exists()


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    saved(tmp_path, 3).clear()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_that_does_not_exist_is_empty_and_stays_away(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path / "none")
    assert manager.positions() == []
    assert manager.newest_good() is None
    manager.clear()
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("which", [1, 2, 3, 6])
def test_a_write_that_failed_fails_the_save_though_later_ones_worked(
    which: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = saved(tmp_path, 1)
    whole_file = checkpoint_file.whole_file

    class FailsOnce:
        def __init__(self, file: IO[bytes]) -> None:
            self.file, self.writes = file, 0

        def __getattr__(self, name: str) -> object:
            return getattr(self.file, name)

        def write(self, data: bytes) -> int:
            self.writes += 1
            if self.writes == which:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(data)

    @contextmanager
    def failing(target: Path, temporary: Path) -> Iterator[FailsOnce]:
        with whole_file(target, temporary) as file:
            yield FailsOnce(file)

    monkeypatch.setattr(checkpoint_file, "whole_file", failing)
    with pytest.raises(StorageFull, match=str(tmp_path)):
        manager.save(Position(2), state(2))
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-00001.ckpt"]
