"""Bytes by key: a folder on one machine, or a bucket of any S3-compatible store, behind one interface.

Keys are relative paths of letters, digits and `. _ = + @ -`. Never use one key as the folder of another
(`a` and `a/b`): a folder refuses it and S3 servers differ.
"""

import hashlib
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import urlsplit

import psutil

from retrain.errors import BadInput, ConfigError, NotFound, PostConditionFailed, StorageFull, Unavailable
from retrain.storage.digests import content_digest, file_digest
from retrain.storage.files import beside, disk_errors, whole_file

_SEGMENT = r"[A-Za-z0-9_=+@-][A-Za-z0-9._=+@-]{0,199}"
_KEY = re.compile(rf"{_SEGMENT}(/{_SEGMENT})*")
_PART_BYTES = 8 * 2**20
_DAY_S = 86_400
_HOST = socket.gethostname().replace("/", "_")[:100]


class BlobStore(Protocol):
    """A put is all or nothing: readers, also those after a crash, see the old bytes or the new ones.

    Any number of threads and processes may use one store. Of two simultaneous puts of other bytes to one
    key the last wins, and the first may be told so (`PostConditionFailed`, where puts are read back). Every
    method raises `BadInput` for a malformed key and `Unavailable` when the store does not answer or permit.
    """

    def put(self, key: str, data: bytes) -> None:
        """Store durably, replacing what was there. `StorageFull` leaves the old bytes."""

    def get(self, key: str) -> bytes:
        """All bytes, or `NotFound`."""

    def exists(self, key: str) -> bool: ...

    def delete(self, key: str) -> None:
        """Remove; does nothing when there is no such key."""

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Keys that start with these characters (not necessarily a whole folder name), sorted."""

    def put_file(self, key: str, path: Path) -> None:
        """Like `put`, for a file too large for memory."""

    def fetch(self, key: str, target: Path) -> None:
        """Write the bytes to `target`, which appears complete or not at all, or `NotFound`."""

    def remove_unfinished(self) -> None:
        """Delete the bytes of puts that were killed; what may still be under way stays."""


class LocalBlobs:
    """Blobs as plain files under one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        # Half-written files live here, out of the way of `keys`; a leading dot is never a key.
        self._incoming = self.root / ".incoming"
        with disk_errors(self.root):
            self._incoming.mkdir(parents=True, exist_ok=True)
        self.remove_unfinished()

    def put(self, key: str, data: bytes) -> None:
        target = self._path(key)
        with self._arriving(target) as file:
            file.write(data)
        self._verify(key, content_digest(data))

    def get(self, key: str) -> bytes:
        with self._open(key) as file, disk_errors(self.root):
            return file.read()

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def delete(self, key: str) -> None:
        with disk_errors(self.root):
            if self.exists(key):
                self._path(key).unlink(missing_ok=True)

    def keys(self, prefix: str = "") -> Iterator[str]:
        folder, _, _ = prefix.rpartition("/")
        if folder:
            _checked(folder)
        return (key for key in self._walk(folder) if key.startswith(prefix))

    def put_file(self, key: str, path: Path) -> None:
        target = self._path(key)
        with _source(path) as source, self._arriving(target) as file:
            shutil.copyfileobj(source, file, _PART_BYTES)
        self._verify(key, file_digest(path))

    def fetch(self, key: str, target: Path) -> None:
        with self._open(key) as source, whole_file(target, beside(target)) as file:
            shutil.copyfileobj(source, file, _PART_BYTES)

    def remove_unfinished(self) -> None:
        """A put of another machine that shares the folder counts as killed after a day."""
        with disk_errors(self.root):
            for left in self._incoming.iterdir():
                writer, _, host = left.name.partition("-")
                with suppress(FileNotFoundError):
                    written_at = left.stat().st_mtime
                    is_ours = writer.isdecimal() and host.startswith(_HOST)
                    if (
                        not _is_writing(int(writer), written_at)
                        if is_ours
                        else written_at < time.time() - _DAY_S
                    ):
                        left.unlink()

    def _verify(self, key: str, digest: str) -> None:
        """Read back what is stored."""
        with disk_errors(self.root):
            try:
                stored = file_digest(self._path(key))
            except FileNotFoundError:
                return  # deleted by another process since
        if stored != digest:
            raise PostConditionFailed(
                f"{self.root} holds other bytes for {key!r} than were just put: "
                "another process wrote it at the same time, or the disk is broken."
            )

    def _path(self, key: str) -> Path:
        return self.root / _checked(key)

    @contextmanager
    def _open(self, key: str) -> Iterator[IO[bytes]]:
        try:
            file = self._path(key).open("rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise NotFound(f"There is no blob {key!r} under {self.root}.") from error
        except OSError as error:
            raise Unavailable(f"Cannot read blob {key!r} under {self.root}: {error.strerror}.") from error
        with file:
            yield file

    @contextmanager
    def _arriving(self, target: Path) -> Iterator[IO[bytes]]:
        with whole_file(target, self._incoming / f"{os.getpid()}-{_HOST}-{secrets.token_hex(8)}") as file:
            yield file

    def _walk(self, folder: str) -> Iterator[str]:
        try:
            with os.scandir(self.root / folder) as found:
                # The slash makes folders sort where their keys do: "a.b" < "a/b" < "a0".
                names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in found)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise Unavailable(f"Cannot list {self.root / folder}: {error.strerror}.") from error
        for name in names:
            key = f"{folder}/{name}" if folder else name
            if name.endswith("/"):
                if name != ".incoming/":
                    yield from self._walk(key[:-1])
            elif _KEY.fullmatch(key):
                yield key


class S3Blobs:
    """Blobs as objects of one bucket, which has to exist.

    Args:
        prefix: put before every key, as a folder.
        endpoint_url: of a store other than AWS; None leaves it to `AWS_ENDPOINT_URL` and boto3.
        client: a boto3 S3 client to use instead of one made from the environment.
    """

    def __init__(
        self, bucket: str, prefix: str = "", endpoint_url: str | None = None, client: Any = None
    ) -> None:
        self._bucket = bucket
        self._prefix = _checked(prefix.strip("/")) + "/" if prefix.strip("/") else ""
        self._endpoint_url = endpoint_url
        self._given_client = client
        self._client_of: tuple[int, Any] | None = None

    def put(self, key: str, data: bytes) -> None:
        with self._errors(key) as client:
            client.put_object(Bucket=self._bucket, Key=self._full(key), Body=data)
            self._verify(client, key, len(data), {_md5(data)}, hashlib.sha256(data).hexdigest())

    def get(self, key: str) -> bytes:
        with self._errors(key) as client:
            body = client.get_object(Bucket=self._bucket, Key=self._full(key))["Body"]
            data: bytes = body.read()
            return data

    def exists(self, key: str) -> bool:
        try:
            with self._errors(key) as client:
                client.head_object(Bucket=self._bucket, Key=self._full(key))
        except NotFound:
            return False
        return True

    def delete(self, key: str) -> None:
        with self._errors(key) as client:
            client.delete_object(Bucket=self._bucket, Key=self._full(key))

    def keys(self, prefix: str = "") -> Iterator[str]:
        with self._errors(prefix) as client:
            pages = client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            for page in pages:
                for found in page.get("Contents", []):
                    yield found["Key"].removeprefix(self._prefix)

    def put_file(self, key: str, path: Path) -> None:
        from boto3.s3.transfer import TransferConfig

        parts = TransferConfig(multipart_threshold=_PART_BYTES, multipart_chunksize=_PART_BYTES)
        with _source(path) as source, self._errors(key) as client:
            size, etags, sha256 = _fingerprints(source)
            client.upload_file(str(path), self._bucket, self._full(key), Config=parts)
            self._verify(client, key, size, etags, sha256)

    def fetch(self, key: str, target: Path) -> None:
        with self._errors(key) as client:
            body = client.get_object(Bucket=self._bucket, Key=self._full(key))["Body"]
            with body, whole_file(target, beside(target)) as file:
                shutil.copyfileobj(body, file, _PART_BYTES)

    def remove_unfinished(self) -> None:
        """Abort multipart uploads that began more than a day ago: nobody can see whether one still goes on."""
        with self._errors(self._prefix) as client:
            for upload in self._uploads(client):
                if upload["Initiated"].timestamp() < time.time() - _DAY_S:
                    client.abort_multipart_upload(
                        Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )

    def _uploads(self, client: Any) -> list[dict[str, Any]]:
        """Multipart uploads that nobody completed; none for a store that cannot list them (rclone)."""
        pages = client.get_paginator("list_multipart_uploads").paginate(
            Bucket=self._bucket, Prefix=self._prefix
        )
        try:
            return [upload for page in pages for upload in page.get("Uploads", [])]
        except client.exceptions.ClientError as error:
            if error.response["Error"].get("Code") in {"NoSuchUpload", "NotImplemented", "MethodNotAllowed"}:
                return []
            raise

    def _full(self, key: str) -> str:
        return self._prefix + _checked(key)

    def _verify(self, client: Any, key: str, size: int, etags: set[str], sha256: str) -> None:
        """Read back what is stored: by its size and ETag, or whole where the ETag is not a plain MD5."""
        head = client.head_object(Bucket=self._bucket, Key=self._full(key))
        if head["ContentLength"] == size and head["ETag"].strip('"') in etags:
            return
        body = client.get_object(Bucket=self._bucket, Key=self._full(key))["Body"]
        stored = hashlib.sha256()
        while chunk := body.read(_PART_BYTES):
            stored.update(chunk)
        if stored.hexdigest() != sha256:
            raise PostConditionFailed(
                f"{self._where()} holds other bytes for {key!r} than were just put: "
                "another process wrote it at the same time, or the store is broken."
            )

    def _client(self) -> Any:
        if self._given_client is not None:
            return self._given_client
        # Connections must not be shared with a forked child.
        if self._client_of is None or self._client_of[0] != os.getpid():
            self._client_of = (os.getpid(), self._connect())
        return self._client_of[1]

    def _connect(self) -> Any:
        import boto3
        from botocore.config import Config

        other_store = self._endpoint_url or os.environ.get(
            "AWS_ENDPOINT_URL_S3", os.environ.get("AWS_ENDPOINT_URL")
        )
        session = boto3.session.Session()
        client = session.client(
            "s3",
            endpoint_url=self._endpoint_url,
            region_name=session.region_name or ("us-east-1" if other_store else None),
            config=Config(
                connect_timeout=5,
                read_timeout=60,
                retries={"mode": "standard", "max_attempts": 3},
                # Stores other than AWS often know neither buckets as host names nor the newer checksums.
                s3={"addressing_style": "path"} if other_store else {},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
        try:
            client.head_bucket(Bucket=self._bucket)
        except client.exceptions.ClientError as error:
            # Without this, a missing bucket looks like a missing key. 403 may only mean "no right to list".
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                raise Unavailable(f"{self._where()} does not exist; create the bucket first.") from error
        return client

    def _where(self) -> str:
        endpoint = (
            self._endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        )
        return f"S3 bucket {self._bucket!r} at {_without_login(endpoint) if endpoint else 'AWS'}"

    @contextmanager
    def _errors(self, key: str) -> Iterator[Any]:
        try:
            from boto3.exceptions import Boto3Error
            from botocore.exceptions import BotoCoreError, ClientError
        except ModuleNotFoundError as error:
            raise ConfigError("Blobs in S3 need boto3: pip install 'retrain[s3]'.") from error
        try:
            yield self._client()
        except ClientError as error:
            code = error.response["Error"].get("Code", "")
            if code in {"404", "NoSuchKey", "NotFound"}:
                raise NotFound(f"There is no blob {key!r} in {self._where()}.") from error
            if error.response["ResponseMetadata"].get("HTTPStatusCode") == 507:
                raise StorageFull(f"{self._where()} has no space left for {key!r}.") from error
            raise Unavailable(f"{self._where()} refused {key!r}: {_without_login(str(error))}.") from error
        except (BotoCoreError, Boto3Error) as error:
            raise Unavailable(
                f"{self._where()} does not answer for {key!r}: {_without_login(str(error))}."
            ) from error


def open_blobs(url: str) -> BlobStore:
    """The store that `url` names: `s3://<bucket>/<prefix>`, or the path of a folder, which is created."""
    parsed = urlsplit(url)
    if parsed.scheme == "s3" and parsed.netloc:
        return S3Blobs(parsed.netloc, parsed.path.strip("/"))
    if not url or "://" in url:
        raise ConfigError(f"Blobs live in a folder or in s3://<bucket>/<prefix>, but got {url!r}.")
    return LocalBlobs(Path(url))


def _checked(key: str) -> str:
    if len(key) > 500 or not _KEY.fullmatch(key):
        raise BadInput(
            f"A blob key is a relative path of at most 500 letters, digits and . _ = + @ -, but got {key!r}."
        )
    return key


def _is_writing(pid: int, written_at: float) -> bool:
    """Whether the process that wrote at that time still runs; another may have got its number since."""
    if pid == os.getpid():
        return True
    try:
        process = psutil.Process(pid)
        return bool(process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= written_at)
    except psutil.NoSuchProcess:
        return False


@contextmanager
def _source(path: Path) -> Iterator[IO[bytes]]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise BadInput(f"Cannot read {path} to store it: {error.strerror}.") from error
    with file:
        yield file


def _md5(data: bytes) -> str:
    # S3 names objects by MD5; nothing here relies on it being hard to forge.
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _fingerprints(file: IO[bytes]) -> tuple[int, set[str], str]:
    """Size, the ETags a store may give (plain, or of parts as AWS does it), and SHA-256."""
    whole, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    parts: list[bytes] = []
    size = 0
    while chunk := file.read(_PART_BYTES):
        whole.update(chunk)
        sha256.update(chunk)
        parts.append(hashlib.md5(chunk, usedforsecurity=False).digest())
        size += len(chunk)
    return size, {whole.hexdigest(), f"{_md5(b''.join(parts))}-{len(parts)}"}, sha256.hexdigest()


def _without_login(text: str) -> str:
    """Text with `user:password@` taken out of every URL in it."""
    return re.sub(r"//[^/\s@]*@", "//", text)
