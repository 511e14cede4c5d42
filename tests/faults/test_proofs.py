"""A recorded stage whose effect was changed or lost afterwards is found, by stage; the others still hold."""

import json

import pytest
from sqlalchemy import delete, select, update

from flows.dataset_forget import forget_images
from retrain.cycle import list_cycles
from retrain.data_collection.forgetting.eraser import Eraser
from retrain.data_collection.forgetting.forget import Scope, forget
from retrain.storage.schema import annotations, ledger, samples, stages
from tasks.evaluation_data import evaluation_file
from tasks.proofs import prove_cycle


@pytest.fixture
def world(finished_world):
    return finished_world


@pytest.fixture
def finished(world):
    return list_cycles(world.state)[-1].id


def broken(world, cycle):
    return {proof.stage: proof.said for proof in prove_cycle(world, cycle) if not proof.holds}


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def rewrite(world, cycle, stage, change):
    mine = (stages.c.cycle_id == cycle, stages.c.stage == stage)
    with world.state.write() as connection:
        output = json.loads(json.dumps(connection.execute(select(stages.c.output).where(*mine)).scalar_one()))
        change(output)
        connection.execute(update(stages).where(*mine).values(output=output))


def outputs(world, cycle):
    with world.state.read() as connection:
        query = select(stages.c.stage, stages.c.output).where(stages.c.cycle_id == cycle)
        return dict(connection.execute(query).all())


def test_every_stage_is_compared_with_the_world_again(world, finished):
    served = outputs(world, finished)["thresholds"]["confidences"]
    assert len(set(served.values())) == 2, "the same for both classes proves little of what is said by class"
    # Deciding again from what was stored shows that the gate was forced.
    assert set(broken(world, finished)) == {"gate"}
    assert len(prove_cycle(world, finished)) == 12
    assert {proof.holds for proof in prove_cycle(world, "cycle-squares-first")} == {True}


def test_what_was_damaged_since_is_named_by_its_stage(world, finished):
    found = outputs(world, finished)
    known = {"gate"}

    def expect(stage, said):
        known.add(stage)
        now = broken(world, finished)
        assert set(now) == known
        assert said in now[stage]

    with world.state.write() as connection:
        one = select(samples.c.id).where(samples.c.cycle_id == finished).limit(1).scalar_subquery()
        connection.execute(update(samples).where(samples.c.id == one).values(cycle_id=None))
    expect("select", "the samples claimed")

    with world.state.write() as connection:
        one = select(annotations.c.sample_id).limit(1).scalar_subquery()
        connection.execute(delete(annotations).where(annotations.c.sample_id == one))
    expect("annotate", "the samples labelled by auto")

    (world.home / found["layout"]["val"]).unlink()
    expect("layout", "does not exist; write it again")

    flip_a_byte(world.home / found["train"]["model_folder"] / "weights.safetensors")
    expect("train", "the digest of the weights")

    def inflate(output):
        for one in output.values():
            one["challenger"] += 0.01

    rewrite(world, finished, "evaluate", inflate)
    expect("evaluate", "the comparison on")

    rewrite(world, finished, "plan", lambda output: output.update(known_version="v9.9.9"))
    expect("plan", "the champion's dataset version")

    world.evaluation_page(finished).unlink()
    expect("report", "is gone, and none of its images was forgotten")

    rewrite(world, finished, "register", lambda output: output.update(model_version="7"))
    expect("register", "the registered version of the release")

    rewrite(
        world, finished, "thresholds", lambda output: output.update(confidences={"even": 0.9, "odd": 0.8})
    )
    expect("thresholds", "the thresholds")
    # The release was not published with these.
    assert "the thresholds of the release" in broken(world, finished)["register"]

    # Versions are read from DVC's cache; the biggest of its files is a pack.
    cached = (path for path in (world.datasets_path / ".dvc" / "cache").rglob("*") if path.is_file())
    flip_a_byte(max(cached, key=lambda path: path.stat().st_size))
    expect("version", "damaged")

    with world.state.write() as connection:
        connection.execute(update(ledger).where(ledger.c.kind == "decided").values(payload="{}"))
    expect("promote", "The ledger was changed")


def test_models_evaluated_at_what_they_are_not_served_from_are_found(world, finished):
    for who in ("champion", "challenger"):
        file = evaluation_file(world, finished, who)
        whole = file.read_bytes()
        file.write_text(json.dumps({**json.loads(whole), "confidence": 0.987}))
        assert f"Recorded for what the {who} is served from" in broken(world, finished)["evaluate"]
        file.write_bytes(whole)

    with world.state.write() as connection:
        connection.execute(
            delete(stages).where(stages.c.cycle_id == finished, stages.c.stage == "thresholds")
        )
    assert "no stage `thresholds` is recorded" in broken(world, finished)["register"]


def test_a_stage_without_a_check_does_not_count_as_proven(world, finished):
    with world.state.write() as connection:
        row = connection.execute(select(stages).where(stages.c.cycle_id == finished).limit(1)).one()
        connection.execute(stages.insert().values(**{**row._mapping, "stage": "tune"}))

    assert broken(world, finished)["tune"] == "there is no check for this stage"


def test_samples_deleted_on_purpose_are_no_fault(world, finished):
    with world.state.read() as connection:
        ids = connection.execute(select(samples.c.id).where(samples.c.cycle_id == finished)).scalars().all()
    eraser = Eraser(world.state, world.sample_blobs, world.home / "cache", lambda _connection: None)

    forget(eraser, Scope(samples=tuple(ids[:2])), now=2.0)

    assert set(broken(world, finished)) == {"gate"}
    said = {proof.stage: proof.said for proof in prove_cycle(world, finished)}
    assert "2 were deleted on purpose since" in said["select"]


def test_a_page_that_went_because_an_image_on_it_was_forgotten_is_no_fault(world, finished):
    page = world.evaluation_page(finished)
    text = page.read_text(encoding="utf-8")
    items = world.datasets.get_version("v1.1.0").items
    shown = next(item.image for item in items if item.image[:12] in text)

    forget_images(world, [shown], (), None, None, reason="request 7", dry_run=False)

    assert not page.exists()
    assert set(broken(world, finished)) == {"gate"}
    said = {proof.stage: proof.said for proof in prove_cycle(world, finished)}
    assert "is gone; 1 of the test images were forgotten since" in said["report"]
