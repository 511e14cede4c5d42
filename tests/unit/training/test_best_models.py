import itertools
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from retrain.errors import BadInput
from retrain.storage import files
from retrain.training import best_models
from retrain.training.best_models import BestModels


def weights(number: float) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((4,), float(number)), "count": torch.tensor(3)}


def offered(folder: Path, scores: list[float], keep: int = 2, rewindable: int = 0) -> BestModels:
    kept = BestModels(folder, keep, rewindable)
    for epoch, score in enumerate(scores, 1):
        kept.offer(epoch, score, weights(epoch))
    return kept


def epochs(kept: BestModels) -> list[int]:
    return [model.epoch for model in kept.models()]


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_best_are_kept_and_nothing_else(tmp_path: Path) -> None:
    kept = offered(tmp_path, [0.1, 0.5, 0.3, 0.2])
    assert [(model.epoch, model.score) for model in kept.models()] == [(2, 0.5), (3, 0.3)]
    assert files_in(tmp_path) == ["best.json", "epoch-00002.safetensors", "epoch-00003.safetensors"]
    assert load_file(tmp_path / "epoch-00002.safetensors")["weight"].tolist() == [2.0] * 4
    listed = json.loads((tmp_path / "best.json").read_bytes())
    assert [sorted(entry) for entry in listed] == [["epoch", "score", "sha256"]] * 2


def test_offer_says_whether_it_is_among_the_best(tmp_path: Path) -> None:
    kept = BestModels(tmp_path, 1)
    assert kept.offer(1, 0.4, weights(1))
    assert not kept.offer(2, 0.3, weights(2))
    assert kept.offer(3, 0.4, weights(3))
    assert epochs(kept) == [3]


@settings(deadline=None)
@given(scores=st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4]), max_size=8), keep=st.integers(1, 3))
def test_they_are_the_best_by_score_then_epoch(
    scores: list[float], keep: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    kept = offered(tmp_path_factory.mktemp("best"), scores, keep)
    ranked = sorted(((score, epoch) for epoch, score in enumerate(scores, 1)), reverse=True)
    assert epochs(kept) == [epoch for _, epoch in ranked[:keep]]


@settings(deadline=None)
@given(
    scores=st.lists(st.sampled_from([0.1, 0.2, 0.3]), min_size=1, max_size=8),
    keep=st.integers(1, 2),
    back=st.integers(0, 2),
)
def test_rewinding_gives_what_was_best_then(
    scores: list[float], keep: int, back: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    then = max(len(scores) - back, 0)
    kept = offered(tmp_path_factory.mktemp("a"), scores, keep, rewindable=2)
    kept.rewind(then)
    straight = offered(tmp_path_factory.mktemp("b"), scores[:then], keep)
    assert kept.models() == straight.models()
    for epoch, score in list(enumerate(scores, 1))[then:]:
        kept.offer(epoch, score, weights(epoch))
    assert epochs(kept) == epochs(offered(tmp_path_factory.mktemp("c"), scores, keep))


def test_resuming_goes_on_with_what_is_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = offered(tmp_path, [0.1, 0.3, 0.2, 0.9], rewindable=2)
    kept.resume([0.1, 0.3, 0.2], weights(2))
    assert epochs(kept) == [2, 3]
    assert caplog.text == ""


def test_resuming_without_the_files_keeps_the_best_again_and_says_what_is_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = BestModels(tmp_path / "elsewhere", keep=3)
    kept.resume([0.1, float("nan"), 0.3, 0.2], weights(3))
    best = kept.best()
    assert best is not None
    assert (best[0].epoch, best[0].score, best[1]["weight"].tolist()) == (3, 0.3, [3.0] * 4)
    assert epochs(kept) == [3]
    assert "those of epochs 4, 1 are not in" in caplog.text


def test_files_for_rewinding_are_bounded(tmp_path: Path) -> None:
    offered(tmp_path, [number / 100 for number in range(20)], keep=2, rewindable=2)
    assert len(list(tmp_path.glob("*.safetensors"))) == 4


def test_offering_again_changes_nothing(tmp_path: Path) -> None:
    kept = offered(tmp_path, [0.1, 0.5])
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()}
    assert BestModels(tmp_path, 2, 0).offer(2, 0.5, weights(2))
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()} == before
    assert epochs(kept) == [2, 1]


def test_offering_an_epoch_with_another_score_replaces_it(tmp_path: Path) -> None:
    kept = offered(tmp_path, [0.1, 0.5, 0.3])
    assert kept.offer(3, 0.6, weights(33))
    assert epochs(kept) == [3, 2]
    best = kept.best()
    assert best is not None
    assert best[1]["weight"].tolist() == [33.0] * 4
    assert kept.offer(2, 0.0, weights(2))
    assert [model.score for model in kept.models()] == [0.6, 0.0]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("redone", [3, 2])
def test_a_kill_before_any_step_leaves_a_true_list_and_is_made_good_by_offering_again(
    redone: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epoch 3 is new and evicts; epoch 2 is offered again with other weights."""
    for steps in itertools.count():
        folder = tmp_path / str(steps)
        kept = offered(folder, [0.1, 0.2])
        left = iter(range(steps))

        def counted(step, left=left):
            def run(*arguments, **options):
                if next(left, None) is None:
                    raise Killed
                return step(*arguments, **options)

            return run

        finished = True
        with monkeypatch.context() as patch:
            patch.setattr(best_models.files, "write_whole", counted(files.write_whole))
            patch.setattr(Path, "unlink", counted(Path.unlink))
            try:
                kept.offer(redone, 0.3, weights(7))
            except Killed:
                finished = False
        again = BestModels(folder, 2, 0)
        before = again.best()
        assert before is not None
        assert before[0] == again.models()[0]
        again.offer(redone, 0.3, weights(7))
        assert epochs(again) == [redone, 3 - redone if redone == 2 else 2]
        best = again.best()
        assert best is not None
        assert best[1]["weight"].tolist() == [7.0] * 4
        assert len(files_in(folder)) == 3
        if finished:
            assert steps >= 2
            return


def test_a_file_that_is_not_listed_is_removed(tmp_path: Path) -> None:
    kept = offered(tmp_path, [0.5])
    (tmp_path / "epoch-00009.safetensors").write_bytes(b"killed before it was listed")
    (tmp_path / "notes.txt").write_text("mine")
    assert epochs(kept) == [1]
    kept.rewind(1)
    assert files_in(tmp_path) == ["best.json", "epoch-00001.safetensors", "notes.txt"]


def test_a_listed_file_that_is_gone_is_dropped_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = offered(tmp_path, [0.1, 0.5])
    (tmp_path / "epoch-00002.safetensors").unlink()
    assert epochs(kept) == [1]
    assert "epoch-00002.safetensors is gone" in caplog.text
    assert kept.offer(3, 0.2, weights(3))
    assert epochs(BestModels(tmp_path, 2)) == [3, 1]


def test_a_damaged_best_is_skipped_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = offered(tmp_path, [0.1, 0.5])
    path = tmp_path / "epoch-00002.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    best = kept.best()
    assert best is not None
    assert best[0].epoch == 1
    assert "epoch-00002.safetensors does not have the sha256" in caplog.text


def test_nothing_offered_is_no_best(tmp_path: Path) -> None:
    kept = BestModels(tmp_path / "none", 1)
    assert kept.best() is None
    kept.rewind(0)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("content", [b"", b"{}x", b"[1]", b'[{"epoch": 1}]'])
def test_a_damaged_list_is_named_and_nothing_removed(content: bytes, tmp_path: Path) -> None:
    kept = offered(tmp_path, [0.5])
    (tmp_path / "best.json").write_bytes(content)
    with pytest.raises(BadInput, match=r"best\.json"):
        kept.offer(2, 0.6, weights(2))
    assert (tmp_path / "epoch-00001.safetensors").exists()


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    for keep, rewindable in ((0, 0), (1, -1)):
        with pytest.raises(BadInput, match="keep must be"):
            BestModels(tmp_path, keep, rewindable)
    for epoch, score in ((1, float("nan")), (1, float("inf")), (-1, 0.5)):
        with pytest.raises(BadInput, match=str(score)):
            BestModels(tmp_path, 1).offer(epoch, score, weights(1))
