"""From frames whose truth is known, through the collecting service and a person's labels, to what production did."""

import numpy as np
import pytest
from sqlalchemy import insert, select, update

from retrain.annotation.review import AnnotationStore
from retrain.boxes import Annotations, Detections
from retrain.data_collection.production_quality import ProductionQuality, estimate_production
from retrain.errors import BadInput
from retrain.storage.schema import cycles, draws, samples
from tests.unit.data_collection.pictures import jpeg, picture

RIGHT, WRONG = [10.0, 10.0, 40.0, 40.0], [60.0, 60.0, 90.0, 90.0]
TRUTH = Annotations.of([RIGHT], [0])
AUDIT = 0.2
FAR = 10_000.0


class Production:
    """A model in production: it offers frames, of which the object at `RIGHT` is true."""

    def __init__(self, service, state):
        self._service, self.state, self.time = service, state, 0.0

    def see(self, image, right, confidence=0.5, **more):
        """One frame, in which the model finds the object or something else."""
        shown = Detections.of([RIGHT if right else WRONG], [0], [confidence])
        self._service.collect(image=image, prediction=shown, metadata={"captured_at": self.time}, **more)
        self.time += 1.0

    def drain(self):
        self._service.flush()

    def label(self, ids=None, source="human", truth=TRUTH, cycle="c", model="m"):
        """Somebody labels the samples, or all."""
        row = {"id": cycle, "model": model, "trigger_id": "t", "config_hash": "", "status": "running"}
        with self.state.write() as connection:
            connection.execute(insert(cycles).values(**row, attempts=1, created_at=0.0))
        for name in ids or self.ids():
            AnnotationStore(self.state).save(cycle, name, truth, source=source, annotator="a", now=self.time)

    def ids(self):
        with self.state.read() as connection:
            return connection.execute(select(samples.c.id).order_by(samples.c.captured_at)).scalars().all()

    def estimate(self, since=0.0, until=FAR, **options) -> ProductionQuality:
        return estimate_production(self.state, "m", since, until, **{"audit_rate": AUDIT, **options})


@pytest.fixture
def production(service, state):
    def make(**options):
        return Production(service(**{"collection_strategy": "all", "audit_rate": AUDIT, **options}), state)

    return make


def noisy(number, rng):
    pixels = np.asarray(picture(number)).astype(int).clip(1, 254)
    return (pixels + rng.integers(-1, 2, pixels.shape)).astype(np.uint8)


def test_estimates_of_a_fixed_camera_that_saw_the_same_and_new_things_cover_the_truth(production):
    rng = np.random.default_rng(0)
    taking = production(collection_strategy="combined", settings={"weights": {"uncertainty": 0.9}}, seed=3)
    still = [(noisy(1, rng), rng.random() > 0.05, rng.choice([0.5, 0.9])) for _ in range(200)]
    frozen = [(jpeg(picture(2)), True, 0.5)] * 50
    new = [(jpeg(picture(number)), rng.random() > 0.4, 0.5) for number in range(3, 63)]
    frames = [*still, *frozen, *new]
    for at in rng.permutation(len(frames)):
        taking.see(*frames[at])
    taking.drain()
    taking.label()

    found = taking.estimate(offered=len(frames))

    truth = np.mean([right for _, right, _ in frames])
    assert found.estimates.precision.low <= truth <= found.estimates.precision.high
    assert found.estimates.recall.low <= truth <= found.estimates.recall.high
    assert found.estimates.precision.high - found.estimates.precision.low < 0.2
    assert (found.offered, found.left_out, found.unlabelled) == (len(frames), {}, 0.0)
    # The unsure frames are the most labelled ones: alone they would say another thing.
    assert found.estimates.precision.n < 0.7 * len(frames)


def test_a_frame_with_the_bytes_of_a_stored_one_counts_without_a_label_of_its_own(production):
    taking = production()
    for number, times in ((1, 3), (2, 1)):
        for _ in range(times):
            taking.see(jpeg(picture(number)), right=number == 1)
    taking.drain()
    taking.label()

    found = taking.estimate(audit_rate=1.0, offered=4).estimates

    assert (found.precision.value, found.precision.n) == (3 / 4, 4)


def test_a_repetition_counts_with_the_chance_that_it_was_taken_itself(production):
    certain, doubtful = production(), production(collection_strategy="random", sample_rate=0.5, seed=1)
    certain.see(jpeg(picture(1)), right=True)
    certain.see(jpeg(picture(2)), right=False)
    certain.drain()
    # Its first coin is 0.13.
    doubtful.see(jpeg(picture(1)), right=True)
    doubtful.drain()
    certain.label()

    found = certain.estimate(audit_rate=0.5).estimates

    assert found.precision.n == 3
    assert found.precision.value == pytest.approx((1 + 2) / (1 + 1 + 2))


def test_near_duplicates_do_not_count_and_those_of_the_audit_arm_count_for_them(production):
    rng, taking = np.random.default_rng(0), production(seed=1)
    for _ in range(60):
        taking.see(noisy(1, rng), right=True)
    taking.drain()
    taking.label()

    found = taking.estimate(offered=60).estimates

    with taking.state.read() as connection:
        audited = connection.execute(select(draws.c.id).where(draws.c.outcome == "stored")).all()
    assert found.objects_per_frame.n == len(audited) < 30
    assert found.objects_per_frame.low <= 1.0 <= found.objects_per_frame.high


def three_frames(taking):
    taking.see(jpeg(picture(1)), right=True)
    taking.see(jpeg(picture(2)), right=False)
    taking.see(jpeg(picture(3)), right=True)
    taking.drain()
    return taking


def test_only_frames_captured_in_the_window_count(production):
    taking = three_frames(production())
    taking.label()

    found = taking.estimate(0.0, 2.0, audit_rate=1.0).estimates

    assert (found.precision.value, found.precision.n) == (1 / 2, 2)


def test_only_frames_of_the_release_count(production):
    taking = three_frames(production())
    for number in (4, 5):
        taking.see(jpeg(picture(number)), right=False, release="b" * 64)
    taking.drain()
    taking.label()

    found = taking.estimate(audit_rate=1.0, release="b" * 64).estimates

    assert (found.precision.value, found.precision.n) == (0.0, 2)


def test_frames_of_another_model_do_not_count(production):
    taking, other = three_frames(production()), production(model="other")
    other.see(jpeg(picture(4)), right=False)
    other.drain()
    taking.label()

    assert taking.estimate(audit_rate=1.0).estimates.precision.n == 3


def test_what_the_model_labelled_itself_says_nothing_about_it(production):
    taking = three_frames(production())
    taking.label(taking.ids()[:2])
    taking.label(taking.ids()[2:], source="auto", cycle="d")

    with pytest.raises(
        BadInput, match=r"1 of 3 kept frames, 33\.3 % of the window, have no label by a person"
    ):
        taking.estimate(audit_rate=1.0)


def test_labels_made_in_a_cycle_of_another_model_do_not_count(production):
    taking = three_frames(production())
    taking.label(model="other")

    with pytest.raises(BadInput, match=rf"3 of 3 kept frames, .* as those of sample {taking.ids()[0]}"):
        taking.estimate(audit_rate=1.0)


def test_a_share_without_labels_may_be_allowed_and_is_told(production):
    taking = three_frames(production())
    taking.label(taking.ids()[:2])

    found = taking.estimate(audit_rate=1.0, max_unlabelled=0.4)

    assert found.unlabelled == pytest.approx(1 / 3)
    assert found.estimates.precision.n == 2


def test_what_another_release_predicted_for_the_same_bytes_is_not_known(production):
    taking = three_frames(production())
    taking.see(jpeg(picture(1)), right=False, release="b" * 64)
    taking.drain()
    taking.label()

    with pytest.raises(BadInput, match=r"1 of 4 kept frames, .* repeat what another release predicted"):
        taking.estimate(audit_rate=1.0)


def test_of_two_labels_the_last_one_counts(production):
    taking = three_frames(production())
    taking.label(truth=Annotations.empty())
    taking.time += 1.0
    taking.label(cycle="d")

    assert taking.estimate(audit_rate=1.0).estimates.precision.value == pytest.approx(2 / 3)


def test_rejected_frames_are_left_out_and_told(production):
    taking = three_frames(production())
    taking.see(b"no image", right=False)
    taking.drain()
    taking.label()

    found = taking.estimate(audit_rate=1.0, offered=4)

    assert (found.estimates.precision.n, found.left_out) == (3, {"rejected": 1})


def test_a_sample_that_cannot_stand_for_all_offered_frames_is_refused(production):
    taking = three_frames(production())
    taking.label()

    with pytest.raises(BadInput, match=r"3 labelled frames stand for 3 .* but the window has 50"):
        taking.estimate(audit_rate=1.0, offered=50)


def test_a_window_of_which_pictures_were_deleted_is_refused(production):
    taking = three_frames(production())
    taking.label()
    with taking.state.write() as connection:
        connection.execute(
            update(draws).where(draws.c.captured_at == 0.0).values(outcome="expired", sample_id=None)
        )

    with pytest.raises(BadInput, match="Retention deleted the pictures of 1 frames"):
        taking.estimate(audit_rate=1.0)


def test_an_empty_window_is_refused(production):
    with pytest.raises(BadInput, match="At least 2 labelled frames are needed, got 0"):
        production().estimate()
