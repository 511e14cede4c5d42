"""Images that must never enter a version again. Versions that have them keep them: they never change."""

from collections.abc import Iterable, Mapping

import msgspec

from retrain.dataset.repository.dvc_repository import DvcRepository
from retrain.errors import BadInput, NotFound

_FILE = "forgotten.jsonl"


class ForgottenImage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One image.

    Attributes:
        at: when it was forgotten, in seconds since the epoch.
    """

    image: str
    reason: str
    at: float


class ForgottenImages:
    """Kept by Git, so that every clone refuses them."""

    def __init__(self, repository: DvcRepository) -> None:
        self._repository = repository

    def reasons(self) -> Mapping[str, str]:
        """Image digest → why it was forgotten."""
        return {entry.image: entry.reason for entry in self._entries()}

    def add(self, images: Iterable[str], reason: str, now: float) -> tuple[str, ...]:
        """Record them; returns those that were not forgotten before.

        Raises:
            BadInput: no reason.
        """
        if not reason.strip():
            raise BadInput("Forgetting needs a reason, such as the request's number; it is kept for good.")
        known = self._entries()
        there = {entry.image for entry in known}
        new = tuple(image for image in sorted(set(images)) if image not in there)
        if new:
            entries = [*known, *(ForgottenImage(image, reason, now) for image in new)]
            data = msgspec.json.Encoder().encode_lines(entries)
            self._repository.record(_FILE, data, f"Forget {len(new)} images: {reason}", now)
        return new

    def _entries(self) -> list[ForgottenImage]:
        try:
            data = self._repository.read(_FILE, "refs/heads/main")
        except NotFound:
            return []
        try:
            entries: list[ForgottenImage] = msgspec.json.Decoder(ForgottenImage).decode_lines(data)
        except (msgspec.MsgspecError, UnicodeDecodeError) as e:
            raise BadInput(
                f"The list of forgotten images, {_FILE}, is damaged: {e}. Restore it with Git."
            ) from e
        return entries
