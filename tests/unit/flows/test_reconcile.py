import pytest
from prefect import Task
from prefect.states import Completed, Failed

import flows.reconcile
from flows.reconcile import reconcile_flow
from retrain.errors import BadInput, RetrainError, Unavailable

STEPS = ("start_missing_cycles", "repair_aliases", "delete_expired")


@pytest.fixture
def steps(monkeypatch):
    """Puts tasks in the flow's place that end as they are told; gives the order in which they were asked."""
    asked = []
    monkeypatch.setattr("flows.reconcile.build_resources", lambda _config: "resources")

    def end(**errors):
        for name in STEPS:

            def run(resources, *, return_state, name=name):
                assert resources == "resources"
                assert return_state
                asked.append(name)
                error = errors.get(name)
                return Completed(data=["m-samples-1"]) if error is None else Failed(data=error)

            monkeypatch.setattr(f"flows.reconcile.{name}", run)
        return asked

    return end


def test_cycles_are_started_before_anything_else_is_tried(steps):
    asked = steps()

    assert reconcile_flow.fn() == ["m-samples-1"]
    assert asked == list(STEPS)


@pytest.mark.parametrize("failing", STEPS)
def test_one_step_that_fails_keeps_no_other_from_being_done_and_is_raised(steps, failing):
    asked = steps(**{failing: BadInput("a pack is damaged")})

    with pytest.raises(BadInput, match="a pack is damaged"):
        reconcile_flow.fn()

    assert asked == list(STEPS)


def test_what_failed_in_several_steps_is_all_said(steps):
    steps(repair_aliases=Unavailable("MLflow is down"), delete_expired=BadInput("a pack is damaged"))

    with pytest.raises(RetrainError, match=r"^MLflow is down; a pack is damaged$"):
        reconcile_flow.fn()


def test_the_flow_gives_each_of_its_tasks_its_time():
    tasks = [one for one in vars(flows.reconcile).values() if isinstance(one, Task)]

    assert len(tasks) == len(STEPS)
    assert reconcile_flow.timeout_seconds > sum(one.timeout_seconds for one in tasks)
