"""Which release is champion: decided by compare-and-set in our state, shown as aliases in MLflow.

MLflow overwrites an alias without asking what it was, so it cannot refuse the second of two promotions. The
`aliases` table decides; MLflow's alias is a mirror, written after the decision, read back, and repaired by
`sync` when a process died between the two.
"""

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mlflow.exceptions import MlflowException
from sqlalchemy import Connection, insert, select, update

from retrain.errors import BadInput, Conflict, NotFound, PostConditionFailed
from retrain.mlflow_integration.connection import answering, connect
from retrain.storage.schema import aliases
from retrain.storage.state import StateStore

RELEASE_TAG = "retrain.release"
ALIASES = ("champion", "challenger")
STAGES = {"staging": "challenger", "production": "champion"}
"""MLflow's stages, deprecated since 2.9, and the alias that took over each one's meaning."""
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class AliasRecord:
    """Where an alias points; `revision` grows by one with every move."""

    model: str
    alias: str
    digest: str
    version: str
    revision: int
    moved_at: float


def alias_for(name: str) -> str:
    """`champion` or `challenger`, from an alias or a stage name (`staging`, `production`)."""
    known = STAGES.get(name.lower(), name.lower())
    if known not in ALIASES:
        raise BadInput(f"Unknown alias or stage {name!r}; use one of {', '.join((*ALIASES, *STAGES))}.")
    return known


class ModelRegistry:
    """Registered releases of all models. Safe to share between threads."""

    def __init__(self, tracking_uri: str, state: StateStore) -> None:
        self._uri, self._state = tracking_uri, state
        self._client = connect(tracking_uri)
        self._lock = threading.Lock()

    def register(
        self,
        model_name: str,
        digest: str,
        source_uri: str,
        run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Make a release a version of the model; the same digest always gets the same version.

        Args:
            source_uri: where its files are, best the `runs:/` address that `log_model` returns: a server accepts
                a local path only inside the artifacts of `run_id`.
        """
        if not _DIGEST.fullmatch(digest):
            raise BadInput(f"A release digest is 64 lower-case hex digits, got {digest!r}.")
        with self._lock, answering(self._uri):
            if known := self._versions_of(model_name, digest):
                return known[0]
            self._ensure_model(model_name)
            # The digest goes in with the creation: no kill can leave a version that nobody recognises.
            all_tags = {**(tags or {}), RELEASE_TAG: digest}
            run_id = run_id or _run_of(source_uri)
            created = self._client.create_model_version(model_name, source_uri, run_id=run_id, tags=all_tags)
            # Another process may have created one as well: both keep the lower number.
            known = self._versions_of(model_name, digest)
            if not known:
                raise PostConditionFailed(
                    f"MLflow created {model_name} version {created.version}, but does not find it by its digest."
                )
            if str(created.version) != known[0]:
                self._client.delete_model_version(model_name, str(created.version))
            return known[0]

    def version_of(self, model_name: str, digest: str) -> str:
        """The version a release was registered as.

        Raises:
            NotFound: it was not.
        """
        with answering(self._uri):
            if known := self._versions_of(model_name, digest):
                return known[0]
        raise NotFound(f"Release {digest[:12]} of {model_name} is not registered in MLflow.")

    def move_alias(
        self,
        model_name: str,
        alias: str,
        *,
        expected_digest: str | None,
        new_digest: str,
        new_version: str,
        now: float,
        check: Callable[[Connection], None] | None = None,
    ) -> AliasRecord:
        """Point the alias at a registered release if it still points where the caller believes.

        Args:
            alias: or a stage name, see `alias_for`.
            expected_digest: where the caller saw it point; None when it must not exist yet.
            check: run inside the transaction, e.g. `lease.check`, so that a stale holder cannot move it.

        Raises:
            Conflict: it points elsewhere. Already pointing at `new_digest` is no conflict but a repetition.
            NotFound: no such version.
            PostConditionFailed: MLflow does not show the alias after it was set; `sync` tries again.
        """
        alias = alias_for(alias)
        self._require_release(model_name, new_version, new_digest)
        with self._state.write() as connection:
            if check is not None:
                check(connection)
            _compare_and_set(
                connection, AliasRecord(model_name, alias, new_digest, new_version, 0, now), expected_digest
            )
        self._mirror(model_name, alias)
        return self.current(model_name, alias)

    def current(self, model_name: str, alias: str) -> AliasRecord:
        """Where the alias points now, by our own record.

        Raises:
            NotFound: it was never set.
        """
        alias = alias_for(alias)
        with self._state.read() as connection:
            record = _read(connection, model_name, alias)
        if record is None:
            raise NotFound(f"{model_name} has no {alias} yet.")
        return record

    def sync(self, model_name: str) -> list[AliasRecord]:
        """Write to MLflow what a killed process decided but did not mirror; returns the aliases repaired."""
        query = select(aliases.c.alias).where(aliases.c.model == model_name).order_by(aliases.c.alias)
        with self._state.read() as connection:
            names = list(connection.execute(query).scalars())
        return [self.current(model_name, name) for name in names if self._mirror(model_name, name)]

    def mirrored(self, model_name: str) -> dict[str, str]:
        """Versions by alias as MLflow shows them."""
        with answering(self._uri):
            shown = self._client.get_registered_model(model_name).aliases
        return {name: str(version) for name, version in shown.items()}

    def _mirror(self, model_name: str, alias: str) -> bool:
        """Whether MLflow had to be changed."""
        changed = False
        for _ in range(5):
            record = self.current(model_name, alias)
            if self.mirrored(model_name).get(alias) != record.version:
                with answering(self._uri):
                    self._client.set_registered_model_alias(model_name, alias, record.version)
                changed = True
            shown = self.mirrored(model_name).get(alias)
            # A newer move may have been mirrored before our older one: then ours must not stay.
            if self.current(model_name, alias).revision == record.revision:
                if shown != record.version:
                    raise PostConditionFailed(
                        f"MLflow shows {alias} of {model_name} at version {shown}, not {record.version}, after it "
                        "was set."
                    )
                return changed
        raise Conflict(f"{alias} of {model_name} is being moved by others again and again; try later.")

    def _ensure_model(self, model_name: str) -> None:
        try:
            self._client.create_registered_model(model_name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _versions_of(self, model_name: str, digest: str) -> list[str]:
        """Lowest first. MLflow gives numbers from SQLite and text from a server."""
        query = f"name='{_quotable(model_name)}' and tags.`{RELEASE_TAG}`='{digest}'"
        return [
            str(number)
            for number in sorted(int(v.version) for v in self._client.search_model_versions(query))
        ]

    def _require_release(self, model_name: str, version: str, digest: str) -> None:
        with answering(self._uri):
            tagged = self._client.get_model_version(model_name, version).tags.get(RELEASE_TAG)
        if tagged != digest:
            raise BadInput(f"Version {version} of {model_name} holds release {tagged}, not {digest}.")


def _compare_and_set(connection: Connection, new: AliasRecord, expected: str | None) -> None:
    known = _read(connection, new.model, new.alias)
    found = known.digest if known else None
    if found == new.digest:
        return
    if found != expected:
        raise Conflict(
            f"{new.alias} of {new.model} points to {found or 'nothing'}, not to {expected or 'nothing'} as expected; "
            "somebody moved it. Read it again and decide again."
        )
    values = {"digest": new.digest, "version": new.version, "moved_at": new.moved_at}
    if known is None:
        connection.execute(insert(aliases).values(model=new.model, alias=new.alias, revision=1, **values))
    else:
        connection.execute(
            update(aliases)
            .where(aliases.c.model == new.model, aliases.c.alias == new.alias)
            .values(revision=known.revision + 1, **values)
        )


def _read(connection: Connection, model_name: str, alias: str) -> AliasRecord | None:
    query = select(aliases).where(aliases.c.model == model_name, aliases.c.alias == alias)
    row = connection.execute(query).one_or_none()
    return AliasRecord(**row._mapping) if row else None


def _run_of(source_uri: str) -> str | None:
    """A server accepts a `runs:/` source only together with its run."""
    return source_uri.removeprefix("runs:/").split("/")[0] if source_uri.startswith("runs:/") else None


def _quotable(model_name: str) -> str:
    if "'" in model_name or not model_name:
        raise BadInput(f"A model name must not be empty or hold a quote, got {model_name!r}.")
    return model_name
