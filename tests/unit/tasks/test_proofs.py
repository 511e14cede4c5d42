import pytest
from sqlalchemy import insert, select, update

from retrain.boxes import Annotations, Detections
from retrain.config import RetrainConfig
from retrain.cycle import abandon_cycle, open_cycle
from retrain.data_collection.collector import DataCollectionService
from retrain.data_collection.forgetting.eraser import Eraser
from retrain.data_collection.forgetting.retention import RetentionPolicy, retain
from retrain.data_collection.triggers.crossings import select_samples
from retrain.dataset.reading.materialise import materialise
from retrain.dataset.reading.selection import write_selection
from retrain.evaluation.comparator import EXPANDED, RESAMPLING, compare
from retrain.storage.leases import LeaseManager
from retrain.storage.schema import cycles, samples
from tasks.gate_rules import FROZEN, NEW
from tasks.proofs import prove_cycle
from tasks.resources import Resources
from tests.unit.data_collection.conftest import png_bytes
from tests.unit.dataset.conftest import ImagesInMemory, build_item, build_version
from tests.unit.tasks.evaluated_cycle import evaluated_cycle, pair


@pytest.fixture
def resources(tmp_path):
    config = {"model": {"name": "m"}, "data_collection": {"strategy": "all"}}
    made = Resources(RetrainConfig.model_validate(config), tmp_path)
    yield made
    made.state.close()


def collect(resources, *numbers, at):
    with DataCollectionService(
        resources.home,
        "all",
        blobs=resources.sample_blobs,
        state=resources.state,
        model="m",
        clock=lambda: at,
        background=False,
        near_duplicates=None,
    ) as service:
        for number in numbers:
            service.collect(image=png_bytes(number), prediction=Detections.of([[1, 1, 5, 5]], [0], [0.5]))
        service.flush()


def selected(resources, trigger, *, status=None):
    """A cycle that recorded what it selected and labelled; with a status it has ended."""
    with LeaseManager(resources.state).acquire("cycle-m", 30) as lease:
        cycle = open_cycle(resources.state, "m", trigger, "c", lease)
        ids = select_samples(resources.state, "m", cycle.id, limit=100)
        cycle.stage("select", {}, lambda: {"sample_ids": ids})
        for name in ids:
            resources.annotations.save(
                cycle.id, name, Annotations.empty(), source="auto", annotator="a", now=1.0
            )
        cycle.stage("annotate", {}, lambda: {"auto": ids, "human": [], "left_out": {}})
        if status is not None:
            cycle.finish(status, {})
    return cycle.id


def expire(resources, *, before, now):
    eraser = Eraser(resources.state, resources.sample_blobs, resources.home / "cache")
    return len(retain(eraser, RetentionPolicy(max_age_s=now - before), now).samples)


def found(resources, cycle, *stages):
    proofs = {proof.stage: proof for proof in prove_cycle(resources, cycle)}
    return [(proofs[stage].holds, proofs[stage].said) for stage in stages]


def test_a_picture_that_retention_deleted_and_that_came_again_breaks_neither_of_its_cycles(resources):
    collect(resources, 1, 2, at=1000.0)
    first = selected(resources, "m-samples-1", status="kept_champion")
    assert expire(resources, before=1500.0, now=2000.0) == 2
    collect(resources, 1, 3, at=3000.0)
    second = selected(resources, "m-samples-2", status="kept_champion")

    assert found(resources, first, "select", "annotate") == [
        (True, "0 samples are claimed by this cycle alone; 2 were deleted on purpose since"),
        (True, "0 labels of the model, 0 of people are stored; 0 left out"),
    ]
    assert found(resources, second, "select", "annotate") == [
        (True, "2 samples are claimed by this cycle alone"),
        (True, "2 labels of the model, 0 of people are stored; 0 left out"),
    ]


def test_a_sample_that_was_lost_is_still_missed(resources):
    collect(resources, 1, 2, at=1000.0)
    cycle = selected(resources, "m-samples-1", status="kept_champion")
    with resources.state.write() as connection:
        one = select(samples.c.id).limit(1).scalar_subquery()
        connection.execute(update(samples).where(samples.c.id == one).values(cycle_id=None))

    [(holds, said)] = found(resources, cycle, "select")

    assert not holds
    assert "the samples claimed" in said


def test_an_abandoned_cycle_holds_when_its_samples_were_given_back_and_even_deleted_since(resources):
    collect(resources, 1, 2, at=1000.0)
    cycle = selected(resources, "m-samples-1")
    abandon_cycle(resources.state, cycle, now=1100.0)

    assert found(resources, cycle, "select", "annotate") == [
        (True, "2 samples were claimed, and given back when the cycle was abandoned"),
        (True, "2 labels of the model, 0 of people are stored; 0 left out"),
    ]
    assert expire(resources, before=1500.0, now=2000.0) == 2
    assert [holds for holds, _ in found(resources, cycle, "select", "annotate")] == [True, True]


@pytest.mark.parametrize(
    ("status", "trigger", "missing"),
    [
        (
            "promoted",
            "m-samples-1",
            "plan select annotate version layout train evaluate gate register promote",
        ),
        ("kept_champion", "m-samples-1", "plan select annotate version layout train evaluate gate"),
        ("nothing_to_do", "m-samples-1", "plan select"),
        ("promoted", "m-first", "layout train register serve"),
        ("running", "m-samples-1", ""),
        ("abandoned", "m-samples-1", ""),
    ],
)
def test_stages_that_a_cycle_must_have_recorded_to_end_so_are_missed(resources, status, trigger, missing):
    row = {"id": "cycle-x", "model": "m", "trigger_id": trigger, "config_hash": "c", "status": status}
    with resources.state.write() as connection:
        connection.execute(insert(cycles).values(**row, attempts=1, created_at=1.0))

    proofs = prove_cycle(resources, "cycle-x")

    assert [proof.stage for proof in proofs] == missing.split()
    assert not any(proof.holds for proof in proofs)
    assert all(status in proof.said for proof in proofs)


def laid_out(resources, **output):
    with LeaseManager(resources.state).acquire("cycle-m", 30) as lease:
        cycle = open_cycle(resources.state, "m", "m-samples-1", "c", lease)
        cycle.stage("layout", {}, lambda: output)
    return cycle.id


@pytest.fixture
def pack(resources):
    path = resources.home / "pack.zip"
    path.write_bytes(b"a pack")
    return path


def selection(resources, pack, seeds):
    version = build_version([build_item(seed) for seed in seeds])
    path = write_selection(version, version.items, lambda digest: pack, resources.home / "cache")
    return str(path.relative_to(resources.home))


@pytest.fixture
def layout(resources, pack):
    train, val = (selection(resources, pack, seeds) for seeds in (range(4), range(4, 6)))
    return {"train": [train], "val": val, "images": {train: 4, val: 2}}


def test_a_layout_holds_while_its_lists_are_whole_and_their_packs_there(resources, pack, layout):
    cycle = laid_out(resources, **layout)
    whole = found(resources, cycle, "layout")

    pack.unlink()
    [(holds, said)] = found(resources, cycle, "layout")

    assert whole == [(True, "4 training images in 1 lists, 2 validation images")]
    assert not holds
    assert "packs of selection" in said


def test_a_layout_with_a_damaged_or_missing_list_or_other_images_no_longer_holds(resources, layout):
    train = resources.home / layout["train"][0]
    fewer = {**layout, "images": {**layout["images"], layout["val"]: 3}}
    cycle = laid_out(resources, **fewer)

    said = [found(resources, cycle, "layout")]
    train.write_bytes(train.read_bytes().replace(b"0.", b"1.", 1))
    said.append(found(resources, cycle, "layout"))
    train.unlink()
    said.append(found(resources, cycle, "layout"))

    expected = ("Recorded for the images laid out", "is damaged", "does not exist; write it again")
    assert [one[0][0] for one in said] == [False] * 3
    assert [words in one[0][1] for words, one in zip(expected, said, strict=True)] == [True] * 3


def test_a_layout_of_folders_as_cycles_had_them_holds_while_no_image_is_lost(resources):
    source = ImagesInMemory(range(6))
    version = build_version([build_item(seed, split="val" if seed > 3 else "train") for seed in range(6)])
    folders = {
        split: materialise(version, source, split, resources.home / "cache").relative_to(resources.home)
        for split in ("train", "val")
    }
    cycle = laid_out(resources, train=[str(folders["train"])], val=str(folders["val"]))

    whole = found(resources, cycle, "layout")
    next((resources.home / folders["train"] / "images").iterdir()).unlink()
    [(holds, said)] = found(resources, cycle, "layout")

    assert whole == [(True, "4 training images in 1 lists, 2 validation images")]
    assert not holds
    assert "no longer holds all images" in said


@pytest.mark.parametrize("resampling", [EXPANDED, RESAMPLING])
def test_comparisons_hold_when_they_come_out_equal_again_as_they_were_made_then(resources, resampling):
    champion, challenger = pair()
    images = champion.truth.images
    compared = {
        name: compare(
            champion.only(ids), challenger.only(ids), resamples=200, resampling=resampling
        ).to_json()
        for name, ids in {FROZEN: images[:30], NEW: images[30:]}.items()
    }

    proofs = found(resources, evaluated_cycle(resources, evaluated=compared), "evaluate", "gate")

    assert [holds for holds, _ in proofs] == [True, True], proofs


def test_a_comparison_whose_interval_was_changed_no_longer_holds(resources):
    champion, challenger = pair()
    images = champion.truth.images
    compared = compare(champion.only(images[30:]), challenger.only(images[30:]), resamples=200).to_json()

    ((holds, said),) = found(
        resources, evaluated_cycle(resources, evaluated={NEW: {**compared, "low": 0.2}}), "evaluate"
    )

    assert not holds
    assert "the comparison on new frames" in said
