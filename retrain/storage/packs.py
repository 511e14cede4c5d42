"""Packs: many images in one content-addressed file. Collection writes them, datasets inherit them by name."""

import secrets
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from retrain.errors import BadInput
from retrain.storage.digests import content_digest, file_digest
from retrain.storage.files import whole_file
from retrain.storage.pack_reader import PackReader, digest_in

# Zip cannot store an earlier date; with a fixed one, equal images give equal bytes.
_DATE = (1980, 1, 1, 0, 0, 0)
# What zip adds: local and central header of an image (each with its name), all that ends a file, and the longer
# forms of both that large files take.
_PER_IMAGE, _PER_PACK = 30 + 46 + 20 + 28, 22 + 56 + 20

Image = tuple[str, Path | bytes]
"""Name inside the pack (the digest of the bytes and a suffix) and the bytes or a file with them."""


def pack_file_name(pack: str) -> str:
    return f"{pack}.zip"


def write_pack(folder: Path, images: Iterable[Image]) -> str:
    """Write an uncompressed zip of these images (their bytes are compressed already), named by its own digest.

    Args:
        images: in any order.

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
                if content_digest(data) != digest_in(name):
                    raise BadInput(f"{folder} is damaged: image {name} has other bytes than its name says.")
                archive.writestr(zipfile.ZipInfo(name, _DATE), data)
        pack = file_digest(complete)
        complete.replace(folder / pack_file_name(pack))
    finally:
        complete.unlink(missing_ok=True)
    return pack


def write_packs(folder: Path, images: Iterable[Image], limit_bytes: int = 256 * 2**20) -> list[str]:
    """Write packs of at most `limit_bytes` each; an image that is larger than that has one to itself.

    The same images give the same packs, whatever their order.

    Returns:
        The packs' digests, ordered by the names of the images in them; none for no images.

    Raises:
        BadInput: bytes that are not those their name says.
        StorageFull: no space left; packs that were complete by then stay.
    """
    return [write_pack(folder, part) for part in _parts(images, limit_bytes)]


def read_pack(path: Path, names: Iterable[str]) -> Iterator[bytes]:
    """The bytes of some images of a pack, each checked against the digest in its name.

    Raises:
        NotFound: the pack is not on this machine.
        BadInput: the pack is damaged.
    """
    reader = PackReader(open_packs=1)
    for name in names:
        yield reader.read(path, name)


def _parts(images: Iterable[Image], limit_bytes: int) -> Iterator[list[Image]]:
    part: list[Image] = []
    size = _PER_PACK
    for name, source in sorted(images, key=lambda image: image[0]):
        bytes_inside = len(source) if isinstance(source, bytes) else source.stat().st_size
        added = bytes_inside + _PER_IMAGE + 2 * len(name.encode())
        if part and size + added > limit_bytes:
            yield part
            part, size = [], _PER_PACK
        part.append((name, source))
        size += added
    if part:
        yield part
