import io

import pytest
from rich.console import Console

from flows.cycle_view import show_cycle
from retrain.cycle import open_cycle
from retrain.storage.leases import LeaseManager
from retrain.storage.state import open_state

COLUMNS = ["label", "camera", "old", "replayed"]


@pytest.fixture
def shown(tmp_path):
    """What is printed of a cycle whose layout recorded this replay, its thresholds these if given, its report this."""

    def show(rows, fitted=None, problem=None):
        state = open_state(f"sqlite:///{tmp_path / 'state.db'}")
        with LeaseManager(state).acquire("cycle-m", 30) as lease:
            cycle = open_cycle(state, "m", "m-samples-1", "c", lease)
            replay = {"columns": COLUMNS, "rows": rows}
            cycle.stage("layout", {}, lambda: {"train": ["a"], "val": "b", "replay": replay})
            if fitted is not None:
                cycle.stage("thresholds", {}, lambda: fitted)
            cycle.stage("report", {}, lambda: {"page": None if problem else "p", "problem": problem})
        printed = io.StringIO()
        show_cycle(state, cycle.id, Console(file=printed, width=200))
        state.close()
        return [line.split() for line in printed.getvalue().splitlines()]

    return show


def test_a_cycle_shows_what_it_trained_on_again_per_class_and_camera(shown):
    lines = shown([["person", "gate-3", 40, 32], ["no object", None, 10, 1]])

    assert COLUMNS in lines
    assert ["person", "gate-3", "40", "32"] in lines
    assert ["no", "object", "-", "10", "1"] in lines


def test_a_first_cycle_has_nothing_to_train_on_again(shown):
    lines = shown([])

    assert COLUMNS not in lines
    assert not any("drawn:" in line for line in lines)
    assert ["layout"] in [line[:1] for line in lines]


@pytest.mark.parametrize(("own", "named"), [(["[bold]person"], "[bold]person"), ([], "none")])
def test_it_says_what_each_class_is_served_from_and_which_were_fitted_alone(shown, own, named):
    confidences = {"[bold]person": 0.61234, "van": 0.3}
    fitted = {"rule": "f1", "otherwise": 0.25, "images": 120, "confidences": confidences, "own": own}

    said = (
        "served from [bold]person 0.612, van 0.3 "
        f"(f1 on 120 images of val; fitted to their own objects: {named})"
    )
    assert said.split() in shown([], fitted)


def test_a_cycle_without_a_page_says_why(shown):
    said = " the page could not be drawn: ValueError: no [bold]glyph[/bold] "

    assert said.split() in shown([], problem="ValueError: no [bold]glyph[/bold]")
