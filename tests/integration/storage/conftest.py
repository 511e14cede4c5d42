"""The state on both databases, and a disk small enough to fill."""

import pytest

from retrain.storage.state import open_state


@pytest.fixture(params=["sqlite", "postgres"])
def state_url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state.db'}"
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def state(state_url):
    store = open_state(state_url)
    yield store
    store.close()
