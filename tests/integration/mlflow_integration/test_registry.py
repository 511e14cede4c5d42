import threading

import pytest
from mlflow import MlflowClient
from sqlalchemy import insert, update

from retrain.errors import BadInput, Conflict, LeaseLost, NotFound, PostConditionFailed
from retrain.mlflow_integration.registry import AliasRecord, ModelRegistry, alias_for
from retrain.mlflow_integration.tracker import MLflowTracker
from retrain.storage.schema import aliases

A, B, C = "a" * 64, "b" * 64, "c" * 64


@pytest.fixture
def registry(tracking_uri, state):
    return ModelRegistry(tracking_uri, state)


@pytest.fixture
def client(tracking_uri):
    return MlflowClient(tracking_uri)


@pytest.fixture
def source(tracking_uri, tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"w")
    return MLflowTracker(tracking_uri, "sources").run_for("source").log_model(tmp_path / "weights.bin")


@pytest.fixture
def versions(registry, name, source):
    """Releases A, B and C, registered as versions 1, 2 and 3."""
    return {digest: registry.register(name, digest, source) for digest in (A, B, C)}


def test_a_registered_release_reads_back_with_run_source_and_tags(registry, client, name, source):
    run_id = source.split("/")[1]

    version = registry.register(name, A, source, run_id, {"dataset": "v1.0.0"})

    stored = client.get_model_version(name, version)
    assert version == "1"
    assert stored.tags == {"retrain.release": A, "dataset": "v1.0.0"}
    assert stored.run_id == run_id
    assert stored.status == "READY"
    assert client.get_model_version_download_uri(name, version).endswith("/model") or source == stored.source


def test_a_digest_has_one_version_however_often_it_is_registered(registry, client, name, source, state):
    first = registry.register(name, A, source)
    # Killed right after the version was made: a new process registers it again.
    again = ModelRegistry(registry._uri, state).register(name, A, source)

    assert again == first
    assert registry.version_of(name, A) == first
    assert len(client.search_model_versions(f"name='{name}'")) == 1


def test_two_processes_that_register_at_once_keep_the_lower_version(
    registry, client, name, source, monkeypatch
):
    """The other process creates its version after we looked and before we created ours."""
    create = registry._client.create_model_version

    def create_second(*args, **kwargs):
        client.create_model_version(name, source, run_id=source.split("/")[1], tags={"retrain.release": A})
        return create(*args, **kwargs)

    monkeypatch.setattr(registry._client, "create_model_version", create_second)

    assert registry.register(name, A, source) == "1"
    assert [str(v.version) for v in client.search_model_versions(f"name='{name}'")] == ["1"]


def test_an_alias_moves_by_compare_and_set_and_mlflow_shows_it(registry, client, name, versions):
    first = registry.move_alias(
        name, "champion", expected_digest=None, new_digest=A, new_version=versions[A], now=1.0
    )
    second = registry.move_alias(
        name, "champion", expected_digest=A, new_digest=B, new_version=versions[B], now=2.0
    )

    assert (first.revision, second.revision) == (1, 2)
    assert (
        second == AliasRecord(name, "champion", B, versions[B], 2, 2.0) == registry.current(name, "champion")
    )
    assert str(client.get_model_version_by_alias(name, "champion").version) == versions[B]


def test_a_wrong_expectation_is_a_conflict_that_names_both_and_changes_nothing(registry, name, versions):
    registry.move_alias(
        name, "champion", expected_digest=None, new_digest=A, new_version=versions[A], now=1.0
    )

    with pytest.raises(Conflict, match=f"points to {A}, not to {B} as expected"):
        registry.move_alias(
            name, "champion", expected_digest=B, new_digest=C, new_version=versions[C], now=2.0
        )
    with pytest.raises(Conflict, match=f"points to {A}, not to nothing"):
        registry.move_alias(
            name, "champion", expected_digest=None, new_digest=C, new_version=versions[C], now=2.0
        )

    assert registry.current(name, "champion").digest == A
    assert registry.mirrored(name) == {"champion": versions[A]}


def test_moving_to_where_it_points_already_changes_nothing(registry, name, versions):
    move = {"expected_digest": None, "new_digest": A, "new_version": versions[A]}
    first = registry.move_alias(name, "champion", **move, now=1.0)

    assert registry.move_alias(name, "champion", **move, now=9.0) == first


def test_a_kill_between_decision_and_mirror_is_repaired_by_repeating_the_move(
    registry, state, name, versions
):
    registry.move_alias(
        name, "champion", expected_digest=None, new_digest=A, new_version=versions[A], now=1.0
    )
    with state.write() as connection:
        connection.execute(
            update(aliases).where(aliases.c.model == name).values(digest=B, version=versions[B], revision=2)
        )
    assert registry.mirrored(name) == {"champion": versions[A]}

    repeated = registry.move_alias(
        name, "champion", expected_digest=A, new_digest=B, new_version=versions[B], now=3.0
    )

    assert repeated.revision == 2
    assert registry.mirrored(name) == {"champion": versions[B]}


def test_sync_repairs_what_a_kill_left_behind_and_says_what(registry, state, name, versions):
    with state.write() as connection:
        row = {"model": name, "digest": B, "version": versions[B], "revision": 1, "moved_at": 1.0}
        connection.execute(insert(aliases).values(alias="champion", **row))

    assert [record.alias for record in registry.sync(name)] == ["champion"]
    assert registry.mirrored(name) == {"champion": versions[B]}
    assert registry.sync(name) == []


def test_an_older_mirror_written_late_does_not_stay(registry, state, name, versions, monkeypatch):
    """Another process moves on while ours is between its decision and its mirror."""
    set_alias = registry._client.set_registered_model_alias
    other = ModelRegistry(registry._uri, state)

    def late(*args):
        monkeypatch.setattr(registry._client, "set_registered_model_alias", set_alias)
        other.move_alias(name, "champion", expected_digest=A, new_digest=B, new_version=versions[B], now=2.0)
        set_alias(*args)

    monkeypatch.setattr(registry._client, "set_registered_model_alias", late)
    registry.move_alias(
        name, "champion", expected_digest=None, new_digest=A, new_version=versions[A], now=1.0
    )

    assert registry.current(name, "champion").digest == B
    assert registry.mirrored(name) == {"champion": versions[B]}


def test_of_many_that_move_at_once_exactly_one_wins(registry, name, versions):
    outcomes = []

    def move(digest):
        try:
            registry.move_alias(
                name,
                "champion",
                expected_digest=None,
                new_digest=digest,
                new_version=versions[digest],
                now=1.0,
            )
            outcomes.append(digest)
        except Conflict:
            outcomes.append(None)

    threads = [threading.Thread(target=move, args=(digest,)) for digest in (A, B, C)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    winners = [digest for digest in outcomes if digest]
    assert len(outcomes) == 3
    assert winners == [registry.current(name, "champion").digest]
    assert registry.mirrored(name) == {"champion": versions[winners[0]]}


def test_a_mirror_that_does_not_take_is_noticed(registry, name, versions, monkeypatch):
    monkeypatch.setattr(registry._client, "set_registered_model_alias", lambda *_: None)

    with pytest.raises(PostConditionFailed, match=r"shows champion .* at version None, not 1"):
        registry.move_alias(
            name, "champion", expected_digest=None, new_digest=A, new_version=versions[A], now=1.0
        )


def test_a_holder_that_lost_its_lease_cannot_move_the_alias(registry, name, versions):
    def lost(_connection):
        raise LeaseLost("token 3 is no longer the newest")

    with pytest.raises(LeaseLost):
        registry.move_alias(
            name, "champion", expected_digest=None, new_digest=A, new_version=versions[A], now=1.0, check=lost
        )

    with pytest.raises(NotFound, match="no champion yet"):
        registry.current(name, "champion")


def test_an_alias_points_only_at_the_version_that_holds_the_release(registry, name, versions):
    with pytest.raises(BadInput, match=f"holds release {A}, not {B}"):
        registry.move_alias(
            name, "champion", expected_digest=None, new_digest=B, new_version=versions[A], now=1.0
        )
    with pytest.raises(NotFound):
        registry.move_alias(name, "champion", expected_digest=None, new_digest=B, new_version="99", now=1.0)
    with pytest.raises(NotFound, match="not registered"):
        registry.version_of(name, "d" * 64)


@pytest.mark.parametrize(
    ("given", "alias"),
    [
        ("staging", "challenger"),
        ("Production", "champion"),
        ("champion", "champion"),
        ("challenger", "challenger"),
    ],
)
def test_stage_names_of_the_seed_stand_for_aliases(given, alias):
    assert alias_for(given) == alias


def test_an_unknown_stage_is_refused_with_those_there_are():
    with pytest.raises(BadInput, match="champion, challenger, staging, production"):
        alias_for("archived")


def test_what_is_no_digest_is_refused(registry, name):
    with pytest.raises(BadInput, match="64 lower-case hex"):
        registry.register(name, "latest", "runs:/x/model")
