"""The one content digest: of images, packs and datasets alike, so that the same bytes have the same name everywhere."""

from pathlib import Path

from blake3 import blake3


def content_digest(data: bytes | memoryview) -> str:
    """BLAKE3 of the bytes, 256 bits as 64 hex digits (O'Connor et al., 2020)."""
    return blake3(data).hexdigest()


def file_digest(path: Path) -> str:
    """`content_digest` of a file, without reading it into memory at once."""
    return blake3().update_mmap(path).hexdigest()
