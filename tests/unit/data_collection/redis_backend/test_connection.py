import subprocess
import sys

import pytest

from retrain.data_collection.redis_backend.connection import RedisConnection
from retrain.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis://host", "Redis at host:6379"),
        ("rediss://user:secret@host:7000/3?db=3", "Redis at host:7000/3"),
        ("redis://:secret@127.0.0.1:7000/0?password=secret", "Redis at 127.0.0.1:7000/0"),
        ("unix://user:secret@/run/redis.sock?db=1", "Redis at /run/redis.sock"),
    ],
)
def test_the_server_is_named_without_its_login(url, place):
    assert RedisConnection(url).place == place


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense", "must begin with redis://, rediss:// or unix://, got 'nonsense'"),
        ("localhost:6379", "got 'localhost:6379'"),
        ("http://user:secret@host", r"got 'http://\*\*\*@host'"),
        ("user:se//secret@secret@host:1", r"got '\*\*\*@host:1'"),
        ("http://host?password=secret", "got 'http://host'"),
        ("http:secret?secret@host", r"got '\*\*\*@host'"),
        ("redis://user:secret/word@host:1", "redis_url cannot be read"),
        ("redis://user:secret@host:port", "redis_url cannot be read"),
        ("redis://user:secret@host:1/samples", "must be a number, got 'samples'"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_at_once_without_showing_the_login(url, said):
    with pytest.raises(ConfigError, match=said) as refused:
        RedisConnection(url)

    assert "secret" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_without_redis_py_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)

    with pytest.raises(ConfigError, match=r"pip install 'retrain\[redis\]'"):
        RedisConnection("redis://host")


def test_redis_py_is_not_imported_before_it_is_needed():
    modules = "retrain.data_collection.collector, retrain.data_collection.redis_backend.forwarder"
    code = f"import sys, {modules}, retrain.data_collection.redis_backend.quota; sys.exit('redis' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
