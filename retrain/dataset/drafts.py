"""Versions in the making: kept on disk in a scratch folder that no reader sees, until they are committed."""

import json
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from retrain.dataset.disk import write_durably
from retrain.dataset.version import DatasetItem, canonical_line
from retrain.errors import BadInput, Conflict, NotFound
from retrain.images import EncodedImage

# Also a valid Git tag and file name on every system.
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_-]|\.(?!\.|lock$|$)){0,99}")


@dataclass(frozen=True)
class Draft:
    """What `DatasetManager.create_version` returns; pass it, or its `id` or name, as `version_id`."""

    name: str
    description: str
    classes: tuple[str, ...]
    parent: str | None
    parent_digest: str | None
    splits: Mapping[str, float]
    salt: str
    nonce: str = field(default_factory=lambda: secrets.token_hex(4))

    @property
    def id(self) -> str:
        return f"{self.name}@{self.nonce}"


class Drafts:
    """The drafts under one folder; the caller holds the repository's lock.

    A draft that is begun again starts without images, but bytes already written are used again: a killed import
    that is repeated writes each image once.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def begin(self, draft: Draft) -> None:
        """Store an empty draft, in place of an older one of that name."""
        folder = self._folder(draft.name)
        (folder / "images").mkdir(parents=True, exist_ok=True)
        (folder / "items.jsonl").unlink(missing_ok=True)
        write_durably(folder / "draft.json", canonical_line(asdict(draft)))

    def read(self, version_id: str) -> Draft:
        """The stored draft.

        Raises:
            NotFound: there is none of that name.
            Conflict: another process began it anew, so images added before are gone from it.
        """
        name, _, nonce = version_id.partition("@")
        try:
            stored = json.loads((self._folder(name) / "draft.json").read_bytes())
        except FileNotFoundError:
            raise NotFound(
                f"No draft {name!r}; begin one with create_version. Committed versions never change."
            ) from None
        draft = Draft(**{**stored, "classes": tuple(stored["classes"])})
        if nonce and nonce != draft.nonce:
            raise Conflict(
                f"Draft {name!r} was begun anew by somebody else; choose another name or begin it again."
            )
        return draft

    def items(self, draft: Draft) -> dict[str, DatasetItem]:
        """New and relabelled images by digest; those that bring their bytes have no pack yet (`""`)."""
        path = self._folder(draft.name) / "items.jsonl"
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        parsed = (DatasetItem.from_json(json.loads(line)) for line in lines)
        return {item.image: item for item in parsed}

    def keep_image(self, draft: Draft, image: EncodedImage) -> None:
        """Put the bytes aside; until `record` they belong to no item."""
        path = self._image_path(draft.name, image.digest)
        if not path.exists() or path.stat().st_size != len(image.data):
            # Not synced: packing checks every digest, so bytes that a power cut spoilt are noticed.
            arriving = path.with_name(f".{image.digest}")
            arriving.write_bytes(image.data)
            arriving.replace(path)

    def record(self, draft: Draft, items: Iterable[DatasetItem]) -> None:
        """All of these items, or none if the process is killed; a later item replaces an earlier one."""
        merged = {**self.items(draft), **{item.image: item for item in items}}
        lines = b"".join(canonical_line(item.to_json()) for item in merged.values())
        write_durably(self._folder(draft.name) / "items.jsonl", lines)

    def files(self, draft: Draft) -> list[tuple[str, Path]]:
        """Name and bytes of each image that needs a pack."""
        return [
            (item.file_name, self._image_path(draft.name, item.image))
            for item in self.items(draft).values()
            if not item.pack
        ]

    def discard(self, name: str) -> None:
        if (folder := self._folder(name)).exists():
            shutil.rmtree(folder)

    def _folder(self, name: str) -> Path:
        return self._root / check_name(name)

    def _image_path(self, name: str, image: str) -> Path:
        return self._folder(name) / "images" / image


def check_name(name: str) -> str:
    """The name itself.

    Raises:
        BadInput: it cannot be a tag.
    """
    if not _NAME.fullmatch(name):
        raise BadInput(f"A version name has up to 100 letters, digits and . _ -, like v1.2.0; got {name!r}.")
    return name
