"""Packs: many images in one content-addressed file. Collection writes them, datasets inherit them by name."""

import secrets
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from retrain.errors import BadInput, NotFound
from retrain.storage.digests import content_digest, file_digest
from retrain.storage.files import whole_file

# Zip cannot store an earlier date; with a fixed one, equal images give equal bytes.
_DATE = (1980, 1, 1, 0, 0, 0)


def pack_file_name(pack: str) -> str:
    return f"{pack}.zip"


def write_pack(folder: Path, images: Iterable[tuple[str, Path | bytes]]) -> str:
    """Write an uncompressed zip of these images (their bytes are compressed already), named by its own digest.

    Args:
        images: name inside the pack (the digest of the bytes and a suffix) and the bytes or a file with them, in any
            order.

    Returns:
        The pack's digest; the file is complete and on disk.

    Raises:
        BadInput: bytes that are not those their name says.
        StorageFull: no space left; nothing was written.
    """
    arriving = folder / f".arriving.{secrets.token_hex(4)}"
    complete = folder / f".complete.{secrets.token_hex(4)}"
    try:
        with (
            whole_file(complete, arriving) as file,
            zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
        ):
            for name, source in sorted(images, key=lambda image: image[0]):
                data = source if isinstance(source, bytes) else source.read_bytes()
                archive.writestr(zipfile.ZipInfo(name, _DATE), _checked(data, name, folder))
        pack = file_digest(complete)
        complete.replace(folder / pack_file_name(pack))
    finally:
        complete.unlink(missing_ok=True)
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
    # Zip reads damage as what it cannot do: as encryption, another method, a place before the file.
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, RuntimeError, OSError) as e:
        raise BadInput(f"Pack {path} is damaged: {e}.") from e


def _checked(data: bytes, name: str, path: Path) -> bytes:
    if content_digest(data) != Path(name).stem:
        raise BadInput(f"{path} is damaged: image {name} has other bytes than its name says.")
    return data
