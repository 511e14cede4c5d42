"""Packs: the images that a version adds, in one file, so that DVC tracks few files and inherits them by name."""

import hashlib
import os
import secrets
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from retrain.dataset.disk import sync_folder
from retrain.dataset.images import image_digest
from retrain.errors import BadInput, NotFound

# Zip cannot store an earlier date; with a fixed one, equal images give equal bytes.
_DATE = (1980, 1, 1, 0, 0, 0)


def pack_file_name(pack: str) -> str:
    return f"{pack}.zip"


def write_pack(folder: Path, images: Iterable[tuple[str, Path]]) -> str:
    """Write an uncompressed zip of these images, named by its own digest.

    Args:
        images: name inside the pack and file with the bytes, in any order.

    Returns:
        The pack's blake2b-256 digest; the file is complete and on disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".arriving.{secrets.token_hex(4)}"
    try:
        with temporary.open("x+b") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for name, path in sorted(images):
                    archive.writestr(zipfile.ZipInfo(name, _DATE), _checked(path.read_bytes(), name, path))
            file.flush()
            file.seek(0)
            pack = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).hexdigest()
            os.fsync(file.fileno())
        temporary.replace(folder / pack_file_name(pack))
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(folder)
    return pack


def read_pack(path: Path, names: Iterable[str]) -> Iterator[bytes]:
    """The bytes of some images of a pack, each checked against the digest in its name.

    Raises:
        NotFound: the pack is not on this machine.
        BadInput: the pack is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for name in names:
                yield _checked(archive.read(name), name, path)
    except FileNotFoundError as e:
        raise NotFound(f"Pack {path} is not on this machine. Pull the dataset from its remote first.") from e
    except (zipfile.BadZipFile, KeyError, EOFError) as e:
        raise BadInput(f"Pack {path} is damaged: {e}.") from e


def _checked(data: bytes, name: str, path: Path) -> bytes:
    if image_digest(data) != Path(name).stem:
        raise BadInput(f"{path} is damaged: image {name} has other bytes than its name says.")
    return data
