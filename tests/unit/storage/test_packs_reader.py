import multiprocessing
import os
import pickle
import random
import struct
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrain.errors import BadInput, NotFound, Unavailable
from retrain.storage.digests import content_digest
from retrain.storage.pack_reader import PackReader
from retrain.storage.packs import pack_file_name, read_pack, write_pack, write_packs


def image(seed: int, size: int = 500) -> tuple[str, bytes]:
    data = random.Random(seed).randbytes(size)
    return f"{content_digest(data)}.png", data


def packed(folder: Path, images: list[tuple[str, bytes]]) -> Path:
    return folder / pack_file_name(write_pack(folder, images))


@pytest.fixture
def many(tmp_path):
    """Twelve packs of three images each: where each image is, and its bytes."""
    content = {}
    for pack in range(12):
        images = [image(10 * pack + index) for index in range(3)]
        path = packed(tmp_path, images)
        content |= {(path, name): data for name, data in images}
    return content


def descriptors_of(folder: Path) -> int:
    links = (os.path.realpath(name) for name in Path("/proc/self/fd").iterdir())
    return sum(Path(link).parent == folder.resolve() for link in links)


def read_all(reader: PackReader, content: dict[tuple[Path, str], bytes], seed: int) -> bool:
    places = random.Random(seed).sample(sorted(content), len(content))
    return all(reader.read(*place) == content[place] for place in places)


def in_another_process(reader, content, connection):
    connection.send(read_all(reader, content, 1))


def test_images_come_back_in_any_order_with_few_files_open(many, tmp_path):
    reader = PackReader(open_packs=4)

    assert read_all(reader, many, 0)
    assert descriptors_of(tmp_path) == 4

    reader.close()
    assert descriptors_of(tmp_path) == 0


def test_threads_that_evict_each_others_packs_read_the_right_bytes(many):
    reader = PackReader(open_packs=1)

    with ThreadPoolExecutor(8) as pool:
        right = list(pool.map(lambda seed: read_all(reader, many, seed), range(100)))

    assert all(right)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_on_with_a_reader_in_use(method, many):
    reader = PackReader(open_packs=4)
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    stop = threading.Event()

    def keep_reading() -> None:
        while not stop.is_set():
            read_all(reader, many, 2)

    busy = threading.Thread(target=keep_reading)
    busy.start()
    other = context.Process(target=in_another_process, args=(reader, many, theirs))
    try:
        other.start()
        assert ours.poll(60)
        assert ours.recv() is True
    finally:
        stop.set()
        busy.join()
        other.join()


def test_a_pickled_reader_reads_on(many):
    reader = PackReader(open_packs=4)
    assert read_all(reader, many, 0)

    assert read_all(pickle.loads(pickle.dumps(reader)), many, 1)


def test_the_list_of_contents_is_read_once_however_often_a_pack_is_opened(many, monkeypatch):
    reader, opened = PackReader(open_packs=1), []
    original = zipfile.ZipFile.__init__
    monkeypatch.setattr(
        zipfile.ZipFile,
        "__init__",
        lambda self, file, *rest: (opened.append(file), original(self, file, *rest))[1],
    )

    assert read_all(reader, many, 0)
    assert read_all(reader, many, 1)

    assert len(opened) == 12


def test_headers_longer_than_ours_are_stepped_over(tmp_path):
    """Zip lets each local header have an extra field that the list of contents does not tell of."""
    name, data = image(1)
    for length in (0, 20, 60, 300):
        path = tmp_path / f"{length}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for other, content in (image(2), (name, data), image(3)):
                info = zipfile.ZipInfo(other)
                info.extra = struct.pack("<HH", 0x9999, length) + bytes(length) if length else b""
                archive.writestr(info, content)

        assert PackReader().read(path, name) == data


def test_zip64_entries_are_read(tmp_path):
    name, data = image(1)
    path = tmp_path / "long.zip"
    with (
        zipfile.ZipFile(path, "w") as archive,
        archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as file,
    ):
        file.write(data)

    assert PackReader().read(path, name) == data


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10_000), value=st.integers(1, 255), cut=st.booleans())
def test_damage_anywhere_gives_the_right_bytes_or_an_error_of_ours(place, value, cut, tmp_path):
    images = [image(seed, size=120) for seed in range(3)]
    whole = packed(tmp_path, images).read_bytes()
    place %= len(whole)
    damaged = tmp_path / "damaged.zip"
    damaged.write_bytes(
        whole[:place] if cut else whole[:place] + bytes([whole[place] ^ value]) + whole[place + 1 :]
    )

    for name, data in images:
        try:
            assert PackReader().read(damaged, name) == data
        except BadInput as error:
            assert "is damaged" in str(error)  # noqa: PT017 - either outcome is right


def test_damage_names_the_image(tmp_path):
    (name, data), other = sorted([image(1), image(2)])
    path = packed(tmp_path, [(name, data), other])
    whole = path.read_bytes()
    path.write_bytes(whole.replace(data, data[:-1] + bytes([data[-1] ^ 1])))

    reader = PackReader()

    with pytest.raises(BadInput, match=rf"is damaged: image {name} has other bytes"):
        reader.read(path, name)
    assert reader.read(path, other[0]) == other[1]
    with pytest.raises(BadInput, match="no image"):
        reader.read(path, image(3)[0])


def test_a_size_beyond_the_end_is_refused_before_memory_is_asked_for_it(tmp_path):
    name, data = image(1)
    path = packed(tmp_path, [(name, data)])
    whole = bytearray(path.read_bytes())
    entry = whole.index(b"PK\x01\x02")
    whole[entry + 20 : entry + 28] = struct.pack("<LL", 2**31, 2**31)
    path.write_bytes(whole)

    with pytest.raises(BadInput, match="ends before image"):
        PackReader().read(path, name)


def test_an_image_that_is_not_stored_as_it_is_is_refused(tmp_path):
    name, data = image(1)
    path = tmp_path / "small.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)

    with pytest.raises(BadInput, match="not stored as it is"):
        PackReader().read(path, name)


def test_a_pack_that_cannot_be_opened_says_why(tmp_path, monkeypatch):
    with pytest.raises(NotFound, match=r"not on this machine\. Pull"):
        PackReader().read(tmp_path / "none.zip", "a.png")

    def exhausted(*_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "open", exhausted)
    with pytest.raises(Unavailable, match="Too many open files"):
        PackReader().read(tmp_path / "none.zip", "a.png")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(0, 5000), max_size=12), limit=st.integers(1, 9000), seed=st.integers(0, 99))
def test_packs_stay_below_the_limit_and_do_not_depend_on_the_order(sizes, limit, seed, tmp_path):
    images = dict(image(index, size) for index, size in enumerate(sizes))

    packs = write_packs(tmp_path, images.items(), limit)

    shuffled = random.Random(seed).sample(sorted(images.items()), len(images))
    assert write_packs(tmp_path, shuffled, limit) == packs
    read = {}
    for pack in packs:
        path = tmp_path / pack_file_name(pack)
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        assert path.stat().st_size <= limit or len(names) == 1
        read |= dict(zip(names, read_pack(path, names), strict=True))
    assert read == images


def test_packs_are_filled_as_far_as_the_limit_lets_them(tmp_path):
    images = [image(seed, 1000) for seed in range(30)]

    packs = write_packs(tmp_path, images, 10_000)

    sizes = [(tmp_path / pack_file_name(pack)).stat().st_size for pack in packs]
    assert len(packs) == 5
    assert min(sizes[:-1]) > 8_000
