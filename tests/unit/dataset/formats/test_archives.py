import gzip
import io
import struct
import tarfile
import zipfile

import pytest

from retrain.dataset.formats.archives import Limits, opened
from retrain.dataset.formats.registry import read_dataset
from retrain.errors import BadInput


def make_zip(path, entries, **options):
    with zipfile.ZipFile(path, "w", **options) as file:
        for name, data in entries:
            file.writestr(name, data)
    return path


def make_tar(path, members):
    """Members are (TarInfo fields, data)."""
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as file:
        for fields, data in members:
            info = tarfile.TarInfo()
            for key, value in {"size": len(data), **fields}.items():
                setattr(info, key, value)
            file.addfile(info, io.BytesIO(data))
    return path


def refused(archive, scratch, message, limits=None):
    scratch.mkdir()
    with (
        pytest.raises(BadInput, match=message),
        opened(archive, scratch, **({"limits": limits} if limits else {})),
    ):
        pytest.fail("was accepted")
    # Whatever was unpacked before is gone, and nothing is beside it.
    assert list(scratch.iterdir()) == []
    assert sorted(p.name for p in scratch.parent.iterdir()) == sorted([archive.name, scratch.name])


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.TGZ"])
def test_a_dataset_in_an_archive_is_read_and_removed_after_use(build, tmp_path, name):
    entries = [
        ("set/b\u00e4r/", b""),
        ("set/b\u00e4r/x.png", build.image()),
        ("set/y.png", build.image(shade=1)),
    ]
    if name.endswith("zip"):
        make_zip(tmp_path / name, entries)
    else:
        with tarfile.open(tmp_path / name, "w:gz" if name.lower().endswith("gz") else "w") as file:
            for entry, data in entries[1:]:
                info = tarfile.TarInfo(entry)
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))

    with opened(tmp_path / name) as folder:
        dataset = read_dataset(folder)
        assert [image.path.read_bytes() for image in dataset.images] == [build.image(), build.image(shade=1)]

    assert not folder.exists()


def test_a_folder_is_opened_as_it_is(tmp_path):
    with opened(tmp_path) as folder:
        assert folder == tmp_path
    assert tmp_path.exists()


BAD_NAMES = ["../x", "a/../../x", "/x", "a\\..\\x", "C:/x", "a" * 300]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_zip_with_a_name_that_leads_outside_is_refused(tmp_path, name):
    archive = make_zip(tmp_path / "a.zip", [("fine.txt", b"1"), (name, b"2")])

    refused(archive, tmp_path / "scratch", "may lead, outside the folder|is too long")


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_tar_with_a_name_that_leads_outside_is_refused(tmp_path, name):
    archive = make_tar(tmp_path / "a.tar", [({"name": "fine.txt"}, b"1"), ({"name": name}, b"2")])

    refused(archive, tmp_path / "scratch", "outside|is too long")


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind):
    archive = make_tar(tmp_path / "a.tgz", [({"name": "x", "type": kind, "linkname": "y", "size": 0}, b"")])

    refused(archive, tmp_path / "scratch", "'x' is a link, a device or a sparse file")


def test_links_in_a_zip_are_refused(tmp_path):
    info = zipfile.ZipInfo("x")
    info.external_attr = 0o120777 << 16
    archive = make_zip(tmp_path / "a.zip", [(info, b"/etc/passwd")])

    refused(archive, tmp_path / "scratch", "'x' is a link or a device")


def test_one_name_twice_is_refused(tmp_path):
    archive = make_tar(tmp_path / "a.tar", [({"name": "x"}, b"1"), ({"name": "./x"}, b"2")])

    refused(archive, tmp_path / "scratch", "'./x' is in it twice")


@pytest.mark.parametrize("limits", [Limits(bytes=10**6), Limits(ratio=10, free_ratio_bytes=10**6)])
@pytest.mark.parametrize("suffix", ["zip", "tgz"])
def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, limits, suffix):
    path, data = tmp_path / f"a.{suffix}", bytes(3_000_000)
    if suffix == "zip":
        make_zip(path, [("x", data)], compression=zipfile.ZIP_DEFLATED)
    else:
        make_tar(path, [({"name": "x"}, data)])
    assert path.stat().st_size < 10_000

    refused(path, tmp_path / "scratch", "unpacks to more than", limits)


def test_too_many_entries_are_refused(tmp_path):
    archive = make_zip(tmp_path / "a.zip", [(f"{n}.txt", b"") for n in range(11)])

    refused(archive, tmp_path / "scratch", "has more than 10 entries", Limits(entries=10))


def test_a_tar_header_of_gigabytes_is_never_taken_into_memory(tmp_path):
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 2 * 1024**3
    (tmp_path / "a.tgz").write_bytes(gzip.compress(header.tobuf() + bytes(10_000_000)))

    refused(tmp_path / "a.tgz", tmp_path / "scratch", "it has a header of 2147483648 bytes")


@pytest.mark.parametrize("stated", [10, 200_000])
def test_a_zip_that_lies_about_its_sizes_is_refused(tmp_path, stated):
    archive = make_zip(tmp_path / "a.zip", [("x", bytes(100_000))], compression=zipfile.ZIP_DEFLATED)
    data = archive.read_bytes()
    assert data.count(struct.pack("<L", 100_000)) == 2
    archive.write_bytes(data.replace(struct.pack("<L", 100_000), struct.pack("<L", stated)))

    refused(archive, tmp_path / "scratch", "is damaged|ends 100000 bytes early")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.zip", b""),
        ("a.zip", b"PK\x03\x04 nonsense"),
        ("a.tar", b"nonsense" * 200),
        ("a.tgz", b"nonsense"),
        ("a.tgz", gzip.compress(b"x" * 100_000, mtime=0)[:60]),
    ],
)
def test_a_damaged_archive_is_refused(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)

    refused(tmp_path / name, tmp_path / "scratch", r"Archive .*a\.(zip|tar|tgz) is damaged")


def test_a_truncated_member_is_refused(tmp_path):
    archive = make_tar(tmp_path / "a.tar", [({"name": "x"}, bytes(100_000))])
    archive.write_bytes(archive.read_bytes()[:5000])

    refused(archive, tmp_path / "scratch", "is damaged|ends .* bytes early")


@pytest.mark.parametrize("name", ["a.rar", "gone.zip"])
def test_other_files_are_refused(tmp_path, name):
    (tmp_path / "a.rar").touch()

    with (
        pytest.raises(BadInput, match=r"imported from a folder or a .zip, .tar, .tar.gz, .tgz file, got"),
        opened(tmp_path / name),
    ):
        pytest.fail("was accepted")
