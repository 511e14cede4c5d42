"""Blobs in a bucket of any S3-compatible store."""

import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from retrain.errors import ConfigError, NotFound, PostConditionFailed, StorageFull, Unavailable
from retrain.storage.blobs import DAY_S, PART_BYTES, checked_key, readable
from retrain.storage.files import beside, whole_file


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
        self._prefix = checked_key(prefix.strip("/")) + "/" if prefix.strip("/") else ""
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

        parts = TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES)
        with readable(path) as source, self._errors(key) as client:
            size, etags, sha256 = _fingerprints(source)
            client.upload_file(str(path), self._bucket, self._full(key), Config=parts)
            self._verify(client, key, size, etags, sha256)

    def fetch(self, key: str, target: Path) -> None:
        with self._errors(key) as client:
            body = client.get_object(Bucket=self._bucket, Key=self._full(key))["Body"]
            with body, whole_file(target, beside(target)) as file:
                shutil.copyfileobj(body, file, PART_BYTES)

    def remove_unfinished(self) -> None:
        """Abort multipart uploads that began more than a day ago: nobody can see whether one still goes on."""
        with self._errors(self._prefix) as client:
            for upload in self._uploads(client):
                if upload["Initiated"].timestamp() < time.time() - DAY_S:
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
        return self._prefix + checked_key(key)

    def _verify(self, client: Any, key: str, size: int, etags: set[str], sha256: str) -> None:
        """Read back what is stored: by its size and ETag, or whole where the ETag is not a plain MD5."""
        head = client.head_object(Bucket=self._bucket, Key=self._full(key))
        if head["ContentLength"] == size and head["ETag"].strip('"') in etags:
            return
        body = client.get_object(Bucket=self._bucket, Key=self._full(key))["Body"]
        stored = hashlib.sha256()
        while chunk := body.read(PART_BYTES):
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


def _md5(data: bytes) -> str:
    # S3 names objects by MD5; nothing here relies on it being hard to forge.
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _fingerprints(file: IO[bytes]) -> tuple[int, set[str], str]:
    """Size, the ETags a store may give (plain, or of parts as AWS does it), and SHA-256."""
    whole, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    parts: list[bytes] = []
    size = 0
    while chunk := file.read(PART_BYTES):
        whole.update(chunk)
        sha256.update(chunk)
        parts.append(hashlib.md5(chunk, usedforsecurity=False).digest())
        size += len(chunk)
    return size, {whole.hexdigest(), f"{_md5(b''.join(parts))}-{len(parts)}"}, sha256.hexdigest()


def _without_login(text: str) -> str:
    """Text with `user:password@` taken out of every URL in it."""
    return re.sub(r"//[^/\s@]*@", "//", text)
