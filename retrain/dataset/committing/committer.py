"""Makes drafts versions, or says why not. Works under the repository's lock."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from retrain.dataset.committing.composer import Composer
from retrain.dataset.committing.publisher import Publisher
from retrain.dataset.drafting.candidates import Progress
from retrain.dataset.drafting.draft import Draft
from retrain.dataset.drafting.drafts import Drafts
from retrain.dataset.history.history import History
from retrain.dataset.version import DatasetVersion
from retrain.errors import Conflict, NotFound


class Committer:
    """Remembers what it committed, so that a call repeated after success is told the version."""

    def __init__(
        self, history: History, drafts: Drafts, composer: Composer, publisher: Publisher, incoming: Path
    ) -> None:
        self._history, self._drafts = history, drafts
        self._composer, self._publisher, self._incoming = composer, publisher, incoming
        self._committed: set[str] = set()

    def commit(
        self,
        reference: str,
        waive: str | None,
        forgotten: Mapping[str, str],
        now: float,
        progress: Progress | None = None,
    ) -> DatasetVersion:
        """The version that a draft became, proven by reading it back; `DatasetManager.commit` says what is raised.

        Args:
            reference: the draft's name, or its id.
        """
        name = reference.partition("@")[0]
        exists = name in self._history.names()
        try:
            draft = self._drafts.read(reference)
        except NotFound:
            if not exists or ("@" in reference and reference not in self._committed):
                raise
            return self._publisher.proven(name)
        version = self._composer.compose(draft, waive, forgotten, progress)
        stored = self._publisher.proven(name) if exists else self._publisher.publish(version, now)
        if stored.digest != version.digest:
            gone = sum(image in stored.by_image for image in forgotten)
            since = f" {gone} of its images were forgotten since, so it cannot be made again." if gone else ""
            raise Conflict(
                f"Dataset version {name!r} exists with other content (digest {stored.digest[:12]}, not "
                f"{version.digest[:12]}).{since} Versions never change; choose a new name."
            )
        self._finish(draft, stored)
        return stored

    def leave_out_leaks(self, draft: Draft, forgotten: Mapping[str, str]) -> dict[str, str]:
        """Take images out of a draft until nothing that it adds leaks; image → what it leaked to."""
        gone: dict[str, str] = {}
        known = self._composer.base(draft, forgotten)
        while found := {
            image: leak.to_text()
            for leak in self._composer.review(draft, forgotten)[1].leaks
            for image in [image for image in leak.images if image not in known][-1:]
        }:
            self._drafts.record(draft, (), found)
            gone |= found
            if not self._composer.base(draft, forgotten) and not self._drafts.items(draft):
                break
        return gone

    def _finish(self, draft: Draft, version: DatasetVersion) -> None:
        self._composer.keep_pictures(draft, version)
        self._committed.add(draft.id)
        self._drafts.discard(draft.name)
        shutil.rmtree(self._incoming, ignore_errors=True)
