"""Which store of blobs a setting names."""

from pathlib import Path
from urllib.parse import urlsplit

from retrain.errors import ConfigError
from retrain.storage.blobs import BlobStore
from retrain.storage.local_blobs import LocalBlobs
from retrain.storage.s3_blobs import S3Blobs


def open_blobs(url: str) -> BlobStore:
    """The store that `url` names: `s3://<bucket>/<prefix>`, or the path of a folder, which is created."""
    parsed = urlsplit(url)
    if parsed.scheme == "s3" and parsed.netloc:
        return S3Blobs(parsed.netloc, parsed.path.strip("/"))
    if not url or "://" in url:
        raise ConfigError(f"Blobs live in a folder or in s3://<bucket>/<prefix>, but got {url!r}.")
    return LocalBlobs(Path(url))
