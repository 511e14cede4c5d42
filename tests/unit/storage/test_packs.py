import errno
import os
import random
import zipfile
from pathlib import Path

import pytest

from retrain.errors import BadInput, NotFound
from retrain.storage.digests import content_digest
from retrain.storage.packs import pack_file_name, read_pack, write_pack


@pytest.fixture
def files(tmp_path):
    written = []
    for seed in range(4):
        data = random.Random(seed).randbytes(500)
        path = tmp_path / f"source-{seed}"
        path.write_bytes(data)
        written.append((f"{content_digest(data)}.png", path))
    return written


def test_equal_images_give_equal_packs_whatever_their_order_and_file_times(files, tmp_path):
    first = write_pack(tmp_path / "a", files)
    os.utime(files[0][1], (1, 1))

    second = write_pack(tmp_path / "b", reversed(files))

    assert first == second
    name = pack_file_name(first)
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert content_digest((tmp_path / "a" / name).read_bytes()) == first


def test_a_pack_is_an_ordinary_zip_that_gives_back_every_image(files, tmp_path):
    pack = tmp_path / "a" / pack_file_name(write_pack(tmp_path / "a", files))

    with zipfile.ZipFile(pack) as archive:
        assert sorted(archive.namelist()) == sorted(name for name, _ in files)
    assert list(read_pack(pack, [name for name, _ in files])) == [path.read_bytes() for _, path in files]


def test_every_flipped_byte_of_an_image_is_noticed(files, tmp_path):
    pack = tmp_path / "a" / pack_file_name(write_pack(tmp_path / "a", files))
    data = bytearray(pack.read_bytes())
    data[200] ^= 255
    pack.write_bytes(data)

    with pytest.raises(BadInput, match="is damaged"):
        list(read_pack(pack, sorted(name for name, _ in files)))


def test_a_missing_or_cut_pack_says_so(files, tmp_path):
    pack = tmp_path / "a" / pack_file_name(write_pack(tmp_path / "a", files))
    pack.write_bytes(pack.read_bytes()[:-30])

    with pytest.raises(BadInput, match="is damaged"):
        list(read_pack(pack, [files[0][0]]))
    with pytest.raises(NotFound, match=r"not on this machine\. Pull the dataset"):
        list(read_pack(tmp_path / "none.zip", [files[0][0]]))


def test_a_spoilt_source_is_never_packed(files, tmp_path):
    files[1][1].write_bytes(b"spoilt")

    with pytest.raises(BadInput, match="is damaged"):
        write_pack(tmp_path / "a", files)

    assert list((tmp_path / "a").iterdir()) == []


def test_a_failed_write_leaves_no_file(files, tmp_path, monkeypatch):
    def full(self: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)

    with pytest.raises(OSError, match="No space"):
        write_pack(tmp_path / "a", files)

    assert list((tmp_path / "a").iterdir()) == []
