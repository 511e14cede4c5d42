import pytest

from retrain.dataset.history.forgotten import ForgottenImages
from retrain.errors import BadInput, NotFound, RetrainError


class Repository:
    """One small file with the history of its commits."""

    def __init__(self):
        self.data, self.commits = None, []

    def read(self, path, revision):
        assert (path, revision) == ("forgotten.jsonl", "refs/heads/main")
        if self.data is None:
            raise NotFound("nothing yet")
        return self.data

    def record(self, path, data, message, now):
        self.data = data
        self.commits.append((message, now))


@pytest.fixture
def repository():
    return Repository()


def test_nothing_is_forgotten_at_first(repository):
    assert ForgottenImages(repository).reasons() == {}


def test_each_image_keeps_the_reason_it_was_first_forgotten_for(repository):
    images = ForgottenImages(repository)

    assert images.add(["b", "a", "b"], "request 1", 10.0) == ("a", "b")
    assert images.add(iter(["b", "c"]), "request 2", 20.0) == ("c",)

    assert ForgottenImages(repository).reasons() == {"a": "request 1", "b": "request 1", "c": "request 2"}
    assert repository.commits == [("Forget 2 images: request 1", 10.0), ("Forget 1 images: request 2", 20.0)]


def test_forgetting_the_same_again_or_nothing_makes_no_commit(repository):
    images = ForgottenImages(repository)
    images.add(["a"], "request 1", 10.0)

    assert images.add(["a"], "request 2", 20.0) == images.add([], "request 3", 30.0) == ()
    assert len(repository.commits) == 1


@pytest.mark.parametrize("reason", ["", "  ", "\n"])
def test_no_reason_is_an_error(repository, reason):
    with pytest.raises(BadInput, match="needs a reason"):
        ForgottenImages(repository).add(["a"], reason, 1.0)
    assert repository.commits == []


def test_a_reason_with_line_breaks_and_quotes_comes_back(repository):
    ForgottenImages(repository).add(["a"], 'line "one"\nline two\u2028', 1.0)

    assert ForgottenImages(repository).reasons() == {"a": 'line "one"\nline two\u2028'}


@pytest.mark.parametrize(
    "damaged", [b"\xff\n", b'{"image":"a"}\n', b'{"image":"a","reason":"r","at":1', b"[]\n"]
)
def test_a_damaged_list_is_an_error_in_words_and_is_not_written_over(repository, damaged):
    repository.data = damaged

    with pytest.raises(RetrainError, match=r"forgotten\.jsonl"):
        ForgottenImages(repository).reasons()
    with pytest.raises(RetrainError):
        ForgottenImages(repository).add(["b"], "request", 1.0)
    assert repository.data == damaged
