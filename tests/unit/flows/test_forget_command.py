import io
import os
import signal
from unittest import mock

import pytest
from rich.console import Console
from sqlalchemy import update

from flows.forget_command import apply_retention, forget
from retrain.boxes import Annotations
from retrain.config import RetrainConfig
from retrain.data_collection.forgetting.retention import RetentionPolicy
from retrain.dataset.committing.publisher import Publisher
from retrain.dataset.manager import DatasetManager
from retrain.dataset.repository.dvc_repository import DvcRepository
from retrain.errors import Active, BadInput, Conflict, NotFound
from retrain.storage.digests import content_digest
from retrain.storage.schema import samples
from tasks.resources import Resources
from tests.unit.data_collection.conftest import png_bytes
from tests.unit.data_collection.erasing import files_with, stored
from tests.unit.data_collection.stored_rows import finish_cycle, start_cycle

NOW = 4e9
"""Later than the service's own clock says."""


@pytest.fixture
def resources(tmp_path):
    config = {"model": {"name": "m"}, "data_collection": {"strategy": "all"}}
    made = Resources(RetrainConfig.model_validate(config), tmp_path)
    yield made
    made.state.close()


def collect(resources, *numbers, camera="gate", drain=True):
    with resources.collection_service(background=False) as service:
        for number in numbers:
            service.collect(image=png_bytes(number), confidence=0.5, metadata={"camera_id": camera})
        if drain:
            service.flush()
    return [content_digest(png_bytes(number)) for number in numbers]


def said(work, resources, *arguments, **more):
    """What the command prints, in one line."""
    file = io.StringIO()
    work(resources, Console(file=file, width=500), *arguments, **more)
    return " ".join(file.getvalue().split())


def add_version(resources, name, *numbers):
    begin_version(resources.datasets, name, *numbers)
    resources.datasets.commit(name)


def begin_version(datasets, name, *numbers):
    draft = datasets.create_version(name, classes=["dent"])
    labels = [Annotations.of([[1, 1, 5, 5]], [0])] * len(numbers)
    datasets.add_images(draft, [png_bytes(number) for number in numbers], labels)


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def kill_commit(resources, name, before):
    """Commit a draft in a process that is killed just before it calls this method."""
    child = os.fork()
    if child == 0:
        place, method = before
        with mock.patch.object(place, method, die):
            DatasetManager(resources.datasets_path).commit(name)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_forgetting_a_sample_names_the_cycle_and_the_dataset_version_that_keep_knowing_it(resources):
    one, _ = collect(resources, 1, 2)
    start_cycle(resources.state, "7")
    with resources.state.write() as connection:
        connection.execute(update(samples).where(samples.c.id == one).values(cycle_id="cycle-7"))
    finish_cycle(resources.state, "7")
    add_version(resources, "v1.0.0", 1, 3)
    page = resources.review_page("cycle-7")
    page.parent.mkdir(parents=True)
    page.write_text("with a thumbnail")
    # A later cycle tests on the image, and shows what was missed in it.
    shown, other = (resources.evaluation_page(cycle) for cycle in ("cycle-8", "cycle-9"))
    for target, text in ((shown, f"missed in {one}"), (other, "missed in another")):
        target.parent.mkdir(parents=True)
        target.write_text(text)

    printed = said(forget, resources, NOW, [one])

    assert "1 samples forgotten, 0 records in the spool refused; 1 packs replaced" in printed
    assert f"cycle-7 selected 1 of them: {one[:12]}" in printed
    assert "2 pages of cycles that show them were deleted" in printed
    assert [path.exists() for path in (page, shown, other)] == [False, False, True]
    assert not page.exists()
    assert f"dataset version v1.0.0 still contains 1 of them: {one[:12]}" in printed
    assert "models trained on them have learnt from these pictures" in printed
    assert files_with(resources.home / "blobs", png_bytes(1)) == []


def test_forgetting_a_camera_reaches_what_waits_in_the_spool(resources, tmp_path):
    collect(resources, 1, camera="gate")
    collect(resources, 2, camera="gate", drain=False)
    kept = collect(resources, 3, camera="yard", drain=False)

    printed = said(forget, resources, NOW, cameras=["gate"], reason="asked by letter")

    assert "1 samples forgotten, 1 records in the spool refused" in printed
    assert "dataset version" not in printed
    assert list(stored(resources.state)) == kept
    assert files_with(tmp_path, png_bytes(1)) == files_with(tmp_path, png_bytes(2)) == []


def test_a_dry_run_only_says_what_would_go(resources):
    ids = collect(resources, 1, 2)

    printed = said(forget, resources, NOW, cameras=["gate"], dry_run=True)

    assert printed == "2 stored samples would be forgotten"
    assert stored(resources.state).keys() == set(ids)


def test_a_name_that_nothing_came_of_is_refused_unless_that_is_meant(resources):
    collect(resources, 1)

    with pytest.raises(
        NotFound, match=r"camera 'gaet'\. Did you mean 'gate'.* Nothing was forgotten\. With --unseen"
    ):
        said(forget, resources, NOW, cameras=["gaet"])
    said(forget, resources, NOW, [content_digest(png_bytes(2))], unseen=True)

    collect(resources, 2)
    assert list(stored(resources.state)) == [content_digest(png_bytes(1))]


def test_a_picture_that_only_waits_in_the_spool_is_no_unseen_one(resources, tmp_path):
    [waiting] = collect(resources, 1, drain=False)

    printed = said(forget, resources, NOW, [waiting])

    assert "1 samples forgotten" in printed
    assert files_with(tmp_path, png_bytes(1)) == []


def test_a_dry_run_does_not_empty_the_spool_to_look_for_a_name(resources):
    [waiting] = collect(resources, 1, drain=False)

    printed = said(forget, resources, NOW, [waiting], dry_run=True)

    assert f"There is no sample {waiting}, and there was none. 1 frames wait in the spool" in printed
    assert stored(resources.state) == {}


def test_everything_of_a_model_is_forgotten(resources):
    collect(resources, 1)

    printed = said(forget, resources, NOW, models=["m"])

    assert "1 samples forgotten" in printed
    assert "What they hand over is refused until 2096-10-02 07:11:40 UTC" in printed
    assert stored(resources.state) == {}


def test_the_name_of_a_forgotten_camera_goes_from_the_published_counts(resources):
    collect(resources, 1, camera="kitchen-cam")

    printed = said(forget, resources, NOW, cameras=["kitchen-cam"])

    assert files_with(resources.spool, b"kitchen-cam") == []
    assert "1 running processes still publish counts by the camera's name" in printed


def test_a_picture_goes_from_a_draft_that_a_killed_cycle_left_and_the_rest_can_be_committed(resources):
    collect(resources, 1)
    begin_version(resources.datasets, "v1.0.0", 1, 2)

    printed = said(forget, resources, NOW, cameras=["gate"])

    assert "1 pictures were taken out of the draft of dataset version v1.0.0" in printed
    assert files_with(resources.datasets_path, png_bytes(1)) == []
    version = resources.datasets.commit("v1.0.0")
    assert version.by_image.keys() == {content_digest(png_bytes(2))}


@pytest.mark.parametrize(
    "before",
    [(Publisher, "_arrange_packs"), (DvcRepository, "commit"), (DvcRepository, "_commit_index")],
    ids=["pack written", "pack arranged", "pack in the cache of DVC"],
)
def test_a_commit_that_was_killed_leaves_no_byte_of_what_is_forgotten_and_can_be_done_again(
    resources, before
):
    collect(resources, 1)
    add_version(resources, "v1.0.0", 3)
    begin_version(resources.datasets, "v1.1.0", 1, 2)
    kill_commit(resources, "v1.1.0", before)
    assert len(files_with(resources.datasets_path, png_bytes(1))) > 1

    said(forget, resources, NOW, cameras=["gate"])

    assert files_with(resources.datasets_path, png_bytes(1)) == []
    assert resources.datasets.commit("v1.1.0").by_image.keys() == {content_digest(png_bytes(2))}
    assert resources.datasets.verify("v1.0.0").by_image.keys() == {content_digest(png_bytes(3))}


def test_a_version_made_after_forgetting_has_neither_the_picture_nor_its_bytes(resources):
    collect(resources, 1)
    add_version(resources, "v1.0.0", 1, 2)

    said(forget, resources, NOW, cameras=["gate"])
    datasets = resources.datasets
    later = datasets.commit(datasets.create_version("v1.1.0", parent="v1.0.0"))

    assert later.by_image.keys() == {content_digest(png_bytes(2))}
    for pack in {item.pack for item in later.items}:
        assert png_bytes(1) not in datasets.pack_file(later, pack).read_bytes()
    with pytest.raises(BadInput, match="was forgotten for good"):
        begin_version(datasets, "v1.2.0", 1)


def test_packs_of_committed_versions_stay_whole(resources):
    collect(resources, 1)
    add_version(resources, "v1.0.0", 1, 2)

    printed = said(forget, resources, NOW, cameras=["gate"])

    assert "packs of no dataset version" not in printed
    assert len(resources.datasets.verify("v1.0.0").items) == 2


def test_samples_of_a_running_cycle_are_not_forgotten(resources):
    [one] = collect(resources, 1)
    start_cycle(resources.state, "7")
    with resources.state.write() as connection:
        connection.execute(update(samples).values(cycle_id="cycle-7"))

    with pytest.raises(Conflict, match="cycle-7"):
        said(forget, resources, NOW, [one])

    assert list(stored(resources.state)) == [one]


def test_two_deletions_at_once_are_refused(resources):
    [one] = collect(resources, 1)

    with resources.leases.acquire("collection-deletion", 60.0), pytest.raises(Active):
        said(forget, resources, NOW, [one])

    assert list(stored(resources.state)) == [one]


def test_retention_says_what_went_and_what_is_left(resources):
    collect(resources, 1, 2)
    [used] = collect(resources, 3)
    start_cycle(resources.state, "7")
    with resources.state.write() as connection:
        connection.execute(update(samples).where(samples.c.id == used).values(cycle_id="cycle-7"))

    printed = said(apply_retention, resources, RetentionPolicy(max_bytes=0), NOW)

    size = (resources.home / "blobs" / "packs" / f"{stored(resources.state)[used].pack}.zip").stat().st_size
    assert printed.startswith("2 samples deleted, 1 packs replaced or deleted, ")
    assert f" before, {size} now" in printed
    assert f"{size} bytes too many are left: a running cycle uses them" in printed
