import errno
import hashlib
import io
import os
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from retrain.errors import BadInput, NotFound, StorageFull
from retrain.training.checkpoints import CheckpointManager


def saved(folder: Path, epochs: int) -> CheckpointManager:
    manager = CheckpointManager(folder)
    for epoch in range(1, epochs + 1):
        manager.save(epoch, {"weights": torch.full((100,), float(epoch)), "reports": [{"epoch": epoch}]})
    return manager


def test_state_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    state = saved(tmp_path, 1).load(1)
    assert torch.equal(state["weights"], torch.ones(100))
    assert state["reports"] == [{"epoch": 1}]


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    assert saved(tmp_path, 4).epochs() == [3, 4]


@pytest.mark.parametrize("length", [0, 5, 60, 300])
def test_torn_newest_falls_back_to_the_one_before(length: int, tmp_path: Path) -> None:
    manager = saved(tmp_path, 3)
    os.truncate(tmp_path / "epoch-00003.ckpt", length)
    epoch, state = manager.newest_good() or (None, {})
    assert epoch == 2
    assert torch.equal(state["weights"], torch.full((100,), 2.0))
    assert manager.epochs() == [2]


def test_one_flipped_bit_is_noticed(tmp_path: Path) -> None:
    manager = saved(tmp_path, 1)
    path = tmp_path / "epoch-00001.ckpt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadInput, match="damaged"):
        manager.load(1)


def test_nothing_whole_means_no_checkpoint(tmp_path: Path) -> None:
    manager = saved(tmp_path, 2)
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    assert manager.newest_good() is None
    with pytest.raises(NotFound):
        manager.load(2)


def test_leftovers_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".epoch-00002.ckpt.abc.partial").write_bytes(b"half")
    manager = saved(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-00001.ckpt"]
    assert manager.epochs() == [1]


def test_full_disk_leaves_the_earlier_checkpoint_and_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = saved(tmp_path, 1)

    def full(_: int) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFull, match=str(tmp_path)):
        manager.save(2, {"weights": torch.zeros(3)})
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-00001.ckpt"]


def test_pickled_code_is_never_run(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "owned"),)

    buffer = io.BytesIO()
    torch.save({"weights": Attack()}, buffer)
    payload = buffer.getvalue()
    header = b"retrain-checkpoint-1\n" + hashlib.sha256(payload).hexdigest().encode()
    (tmp_path / "epoch-00001.ckpt").write_bytes(header + payload)
    with pytest.raises(Exception, match="mkdir"):
        CheckpointManager(tmp_path).load(1)
    assert not (tmp_path / "owned").exists()
