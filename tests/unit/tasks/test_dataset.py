import math
import zipfile
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest

from retrain.boxes import Annotations, Detections
from retrain.config import RetrainConfig
from retrain.cycle import open_cycle
from retrain.data_collection.triggers.crossings import select_samples
from retrain.dataset.manager import DatasetManager
from retrain.dataset.reading.balance import sampling_weights
from retrain.dataset.reading.materialise import materialise
from retrain.errors import BadInput, ConfigError, NotFound
from retrain.storage.digests import content_digest
from retrain.storage.leases import LeaseManager
from retrain.storage.selections import read_selection_file
from tasks.cycle import CycleWork
from tasks.dataset import build_version, lay_out
from tasks.resources import Resources
from tests.unit.data_collection.conftest import png_bytes
from tests.unit.dataset import conftest as items

KNOWN = Annotations.of([[1.0, 1.0, 5.0, 5.0]], [0])
MOVED = Annotations.of([[2.0, 2.0, 6.0, 6.0]], [0])
PLAN = {"version": "v1.1.0", "parent_version": "v1.0.0"}


@pytest.fixture
def resources(tmp_path):
    collection = {"strategy": "all", "audit_rate": 0.0, "near_duplicates": {"enabled": False}}
    config = {"model": {"name": "m", "classes": ["dent"]}, "data_collection": collection}
    made = Resources(RetrainConfig.model_validate(config), tmp_path)
    yield made
    made.state.close()


@pytest.fixture(autouse=True)
def log(monkeypatch):
    logger = MagicMock()
    monkeypatch.setattr("tasks.dataset.get_run_logger", lambda: logger)
    return logger


@pytest.fixture(autouse=True)
def artifact(monkeypatch):
    create = MagicMock()
    monkeypatch.setattr("tasks.dataset_review.create_markdown_artifact", create)
    return create


@pytest.fixture
def build(resources):
    """Runs the stage over a dataset of pictures 0 to 9 and samples of numbered pictures with the given labels."""

    def run(labels):
        datasets = resources.datasets
        draft = datasets.create_version("v1.0.0", classes=["dent"], splits={"train": 0.5, "val": 0.5})
        pictures = [png_bytes(number) for number in range(10)]
        groups = [f"old-{number}" for number in range(10)]
        datasets.add_images(draft, pictures, [KNOWN] * 10, groups=groups)
        datasets.commit("v1.0.0")
        with resources.collection_service(background=False) as service:
            for number in labels:
                seen = Detections.of([[1, 1, 5, 5]], [0], [0.5])
                where = {"camera_id": "c", "recording": f"new-{number}"}
                service.collect(image=png_bytes(number), prediction=seen, metadata=where)
            service.flush()
        with LeaseManager(resources.state).acquire("cycle-m", 30) as lease:
            cycle = open_cycle(resources.state, "m", "m-samples-1", "c", lease)
            select_samples(resources.state, "m", cycle.id, limit=100)
            for number, boxes in labels.items():
                sample = content_digest(png_bytes(number))
                resources.annotations.save(cycle.id, sample, boxes, source="auto", annotator="a", now=1.0)
            return build_version.fn(CycleWork(cycle, resources), PLAN)

    return run


def test_samples_that_are_in_the_dataset_already_stay_as_they_are_and_the_others_are_added(
    resources, build, log
):
    built = build({**dict.fromkeys(range(10), KNOWN), 10: KNOWN, 11: MOVED})

    parent = resources.datasets.get_version("v1.0.0").by_image
    version = resources.datasets.verify("v1.1.0")
    digests = [content_digest(png_bytes(number)) for number in range(12)]
    assert set(version.by_image) == set(digests)
    assert [version.by_image[one] for one in digests[:10]] == [parent[one] for one in digests[:10]]
    assert built["left_out"] == {}
    assert log.warning.call_count == 0


def test_a_sample_that_shows_what_is_in_another_split_is_left_out_by_name(resources, build, log, monkeypatch):
    leak = {
        content_digest(png_bytes(11)): "north-7 (train) and gate-3 (test) show the same, 3 of 128 bits apart"
    }
    leave_out = DatasetManager.leave_out
    monkeypatch.setattr(
        DatasetManager, "leave_out_leaks", lambda self, draft: leave_out(self, draft, leak) and dict(leak)
    )

    built = build({10: KNOWN, 11: KNOWN})

    assert content_digest(png_bytes(11)) not in resources.datasets.verify("v1.1.0").by_image
    assert built["left_out"] == {image: f"would leak: {reason}" for image, reason in leak.items()}
    assert log.warning.call_count == 1


def test_a_picture_of_the_dataset_with_other_labels_is_left_out_and_keeps_those_it_has(resources, build):
    labels = dict.fromkeys(range(10), MOVED)

    built = build({**labels, 10: KNOWN})

    version = resources.datasets.verify("v1.1.0")
    kept = [version.by_image[content_digest(png_bytes(number))].annotations.boxes for number in range(10)]
    assert all((boxes == KNOWN.boxes).all() for boxes in kept)
    assert len(built["left_out"]) == 10
    assert any("there already with other labels" in reason for reason in built["left_out"].values())


def test_a_cycle_of_which_no_sample_can_be_added_fails_and_says_why(resources, build):
    with pytest.raises(BadInput, match=r"None of the cycle's 10 labelled samples can be added to v1\.1\.0"):
        build(dict.fromkeys(range(10), MOVED))

    assert resources.datasets.versions() == ["v1.0.0"]


def test_the_review_is_an_artifact_and_a_page_that_show_what_was_added_and_what_was_left_out(
    resources, build, artifact
):
    built = build({**dict.fromkeys(range(10), MOVED), 10: KNOWN})

    said = artifact.call_args.kwargs["markdown"]
    assert artifact.call_args.kwargs["key"] == "dataset-version"
    assert "# v1.0.0 → v1.1.0" in said
    assert "## Leak report\n\nNo group and no near-duplicate is in two splits" in said
    assert f"    {next(iter(built['left_out']))}: " in said.partition("## Left out")[2]
    page = (resources.home / built["review"]).read_text()
    assert "1 of 1 added image." in page
    assert page.count("data:image/") == 1


def test_a_reason_cannot_become_markup_of_the_artifact(resources, build, artifact, monkeypatch):
    leak = {content_digest(png_bytes(11)): "gate\n# owned ![](http://elsewhere/)"}
    leave_out = DatasetManager.leave_out
    monkeypatch.setattr(
        DatasetManager, "leave_out_leaks", lambda self, draft: leave_out(self, draft, leak) and dict(leak)
    )

    build({10: KNOWN, 11: KNOWN})

    lines = artifact.call_args.kwargs["markdown"].splitlines()
    assert [line[:4] for line in lines if "owned" in line] == [" " * 4]


OLD, NEW = range(20), range(20, 26)


@pytest.fixture
def stored(resources):
    """Versions of 20 and of 26 images with their packs, the validation images among them."""

    def item(seed):
        return items.build_item(seed, split="val" if seed % 5 == 0 else "train")

    seeds = {"v1.0.0": OLD, "v1.1.0": (*OLD, *NEW)}
    versions = {name: items.build_version(map(item, given), name=name) for name, given in seeds.items()}
    pack = resources.home / "pack.zip"
    with zipfile.ZipFile(pack, "w") as archive:
        for seed in (*OLD, *NEW):
            archive.writestr(item(seed).file_name, items.encoded_image(seed))
    datasets = SimpleNamespace(get_version=versions.__getitem__, pack_file=lambda version, digest: pack)
    resources.__dict__["datasets"] = datasets
    return versions


def laid_out(resources, known="v1.0.0", **changes):
    """The stage's record under changed settings, and the selections it names: training, then validation."""
    sections = {key: {**resources.config.model_dump()[key], **value} for key, value in changes.items()}
    resources.config = RetrainConfig.model_validate({**resources.config.model_dump(), **sections})
    with LeaseManager(resources.state).acquire("cycle-m", 30) as lease:
        cycle = open_cycle(resources.state, "m", "m-samples-1", "c", lease)
        layout = lay_out.fn(CycleWork(cycle, resources), {"name": "v1.1.0"}, known)
    *train, val = [read_selection_file(resources.home / place) for place in (*layout["train"], layout["val"])]
    return layout, train, val


def digests(selection):
    return [image.digest for image in selection.images]


def test_the_lists_hold_the_new_images_a_replay_and_the_validation_images(resources, stored):
    layout, [new, replayed], val = laid_out(resources)

    train = {split: {item.image for item in stored["v1.1.0"].in_split(split)} for split in ("train", "val")}
    old = set(stored["v1.0.0"].by_image)
    assert set(digests(new)) == train["train"] - old
    assert 0 < len(replayed.images) < len(train["train"] & old)
    assert set(digests(replayed)) < train["train"] & old
    assert set(digests(val)) == train["val"]
    assert list(layout["images"].values()) == [len(one.images) for one in (new, replayed, val)]


def test_a_list_says_what_the_folder_of_the_same_images_would(resources, stored, tmp_path):
    version = stored["v1.1.0"]
    _, [whole], val = laid_out(resources, known=None)

    for split, selection in (("train", whole), ("val", val)):
        images = items.ImagesInMemory((*OLD, *NEW))
        folder = materialise(version, images, split, tmp_path / "folders")
        assert [image.name for image in selection.images] == sorted(
            path.name for path in (folder / "images").iterdir()
        )
        for image in selection.images:
            assert image.labels == (folder / "labels" / f"{image.digest}.txt").read_text()
    assert not any(image.weight for image in whole.images)


def test_balanced_lists_weigh_new_and_replayed_images_together_and_leave_validation_alone(resources, stored):
    _, train, val = laid_out(resources, dataset={"balance_classes": True})

    drawn = {image.digest: image.weight for one in train for image in one.images}
    trained_on = [stored["v1.1.0"].by_image[image] for image in drawn]
    assert len(train) == 2
    assert list(drawn.values()) == pytest.approx(sampling_weights(trained_on, 3).tolist())
    assert np.std(list(drawn.values())) > 0
    assert not any(image.weight for image in val.images)


def test_a_layout_without_anything_to_train_on_says_what_to_change(resources, stored):
    stored["v1.0.0"] = stored["v1.1.0"]

    with pytest.raises(BadInput, match=r"training\.replay_fraction 0 takes none of the others; raise it"):
        laid_out(resources, training={"replay_fraction": 0.0})


def test_every_class_of_a_camera_is_replayed_by_its_ratio_and_the_record_says_how_many(resources, stored):
    classes = stored["v1.1.0"].classes
    old = [item for item in stored["v1.1.0"].in_split("train") if item.image in stored["v1.0.0"].by_image]

    layout, [_, replayed], _ = laid_out(
        resources, training={"replay_fraction": 0.0, "replay_by_class": {"one": 0.3, "two": 1.0}}
    )

    sizes = {label: sum(classes[item.objects[0].class_index] == label for item in old) for label in classes}
    wanted = {"zero": 0, "one": math.ceil(0.3 * sizes["one"]), "two": sizes["two"]}
    assert layout["replay"]["columns"] == ["label", "camera", "old", "replayed"]
    assert sorted(layout["replay"]["rows"]) == sorted(
        [label, "north", sizes[label], wanted[label]] for label in classes
    )
    assert len(replayed.images) == sum(wanted.values())


def test_a_cameras_ratio_holds_for_its_images(resources, stored):
    layout, [_, replayed], _ = laid_out(
        resources, training={"replay_fraction": 0.0, "replay_by_camera": {"north": 1.0}}
    )

    assert len(replayed.images) == sum(old for _, _, old, _ in layout["replay"]["rows"])


def test_a_camera_without_training_images_is_a_warning_that_names_the_nearest(resources, stored, log):
    laid_out(resources, training={"replay_by_camera": {"nort": 1.0, "north": 1.0}})

    (said,) = log.warning.call_args_list
    assert said.args[1:] == ("nort", "; did you mean 'north'?")


def test_a_class_that_the_version_does_not_have_stops_the_layout(resources, stored):
    with pytest.raises(ConfigError, match=r"Unknown class in replay_by_class 'tow'\. Did you mean 'two'\?"):
        laid_out(resources, training={"replay_by_class": {"tow": 1.0}})


def test_validation_images_name_their_camera_and_training_images_none(resources, stored):
    _, train, val = laid_out(resources)

    assert {image.slice for image in val.images} == {"north"}
    assert {image.slice for one in train for image in one.images} == {None}


def test_a_pack_that_is_not_on_this_machine_stops_the_layout(resources, stored):
    (resources.home / "pack.zip").unlink()

    with pytest.raises(NotFound, match="1 packs of selection"):
        laid_out(resources)
