import pytest

from retrain.data_collection.forgetting.eraser import Eraser
from retrain.data_collection.forgetting.forget import Scope, forget
from retrain.data_collection.forgetting.retention import RetentionPolicy, retain
from retrain.data_collection.forgetting.unseen import check_seen
from retrain.errors import NotFound
from retrain.storage.digests import content_digest
from tests.unit.data_collection.conftest import png_bytes
from tests.unit.data_collection.stored_rows import finish_cycle, select_waiting, start_cycle

NOW = 100.0
SAMPLE = content_digest(png_bytes(1))


@pytest.fixture
def collected(service):
    """One frame of the camera `gate-north` by the model `m`, and a rejected one of `gate-south`."""
    collecting = service()
    collecting.collect(image=png_bytes(1), confidence=0.5, metadata={"camera_id": "gate-north"})
    collecting.collect(image=b"no image", confidence=0.5, metadata={"camera_id": "gate-south"})
    collecting.flush()


@pytest.mark.parametrize(
    "scope",
    [
        {"cameras": ("gate-north",)},
        {"cameras": ("gate-south",)},
        {"models": ("m",)},
        {"samples": (SAMPLE,)},
        {"cameras": ("counted",)},
    ],
)
def test_what_was_collected_drawn_or_counted_is_known(collected, state, scope):
    check_seen(state, Scope(**scope), counted=["counted"])


@pytest.mark.parametrize(
    ("scope", "said"),
    [
        ({"cameras": ("gate-nort",)}, "of camera 'gate-nort'. Did you mean 'gate-north'"),
        ({"cameras": ("7",)}, "of camera '7'. Known: counted, gate-north, gate-south."),
        ({"cameras": ("forgotten",)}, "of camera 'forgotten'. Known"),
        ({"models": ("mm",)}, "of model 'mm'. Did you mean 'm'?"),
        ({"samples": ("0" * 64,)}, f"There is no sample {'0' * 64}, and there was none."),
        ({"cameras": ("gate-north",), "samples": ("0" * 64,)}, "There is no sample"),
    ],
)
def test_what_never_came_is_named_with_the_nearest_that_did(collected, state, scope, said):
    with pytest.raises(NotFound) as error:
        check_seen(state, Scope(**scope), counted=["counted"])

    assert said in str(error.value)


@pytest.mark.parametrize("scope", [{"cameras": ("gate-north",)}, {"models": ("m",)}, {"samples": (SAMPLE,)}])
def test_what_was_forgotten_may_be_forgotten_again(collected, state, blobs, tmp_path, scope):
    forget(Eraser(state, blobs, tmp_path / "cache"), Scope(**scope), now=NOW)

    check_seen(state, Scope(**scope))


def test_what_retention_deleted_from_a_cycle_is_known(collected, state, blobs, tmp_path):
    start_cycle(state, "7")
    select_waiting(state, "7")
    finish_cycle(state, "7")
    retain(Eraser(state, blobs, tmp_path / "cache"), RetentionPolicy(max_bytes=0), NOW)

    check_seen(state, Scope((SAMPLE,)))
