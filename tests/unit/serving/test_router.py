import threading
import time
from unittest.mock import MagicMock

import numpy as np
import pytest

from retrain.boxes import Detections
from retrain.errors import BadInput, NotFound, Unavailable
from retrain.serving.route import RouteStore
from retrain.serving.router import Router

POLL_S = 0.02


def eventually(claim, within_s=5.0):
    end = time.monotonic() + within_s
    while not claim():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


@pytest.fixture
def router(routes, releases, load):
    made = Router("m", routes, releases, load, replica="r1", poll_s=POLL_S)
    yield made
    made.stop()


@pytest.fixture
def old(publish, routes):
    digest = publish(0.25)
    routes.initialise("m", digest, now=0.0)
    return digest


def switch(routes, digest, attempt="x"):
    now = routes.get("m")
    return routes.switch("m", digest, expected=now.version, epoch=now.epoch, attempt=attempt, now=time.time())


def test_a_started_router_answers_with_the_routes_control(router, old, frame):
    router.start()

    answer = router.predict(frame)

    assert answer.digest == router.served_digest == old
    assert answer.revision == 1
    assert answer.detections.scores.tolist() == [0.25]
    assert answer.latency_s > 0


def test_an_answer_says_which_boxes_its_own_release_accepts(
    router, releases, model_folder, lineage, routes, frame
):
    strict = {"car": 0.5, "bus": 0.1}
    old, new = (releases.publish(model_folder(0.4), lineage, limits) for limits in (strict, 0.3))
    routes.initialise("m", old, now=0.0)
    router.start()

    before = router.predict(frame)
    switch(routes, new)
    eventually(lambda: router.served_digest == new)
    after = router.predict(frame)

    assert (len(before.detections), len(before.accepted)) == (1, 0)
    assert after.accepted.scores.tolist() == [0.4]


@pytest.mark.parametrize(("accepted_from", "asked"), [(0.25, 0.05), (0.01, 0.01)])
def test_the_model_is_asked_for_weak_boxes_and_for_all_that_its_release_accepts(
    routes, releases, model_folder, lineage, frame, accepted_from, asked
):
    routes.initialise("m", releases.publish(model_folder(), lineage, accepted_from), now=0.0)
    predictor = MagicMock()
    predictor.predict.return_value = [Detections.empty()]
    with Router("m", routes, releases, lambda folder: predictor, replica="r1") as router:
        router.predict(frame)

    assert {call.kwargs["confidence"] for call in predictor.predict.call_args_list} == {asked}


def test_a_started_router_has_acknowledged_what_it_serves(router, old, routes):
    router.start()

    [replica] = routes.replicas("m", alive_since=0.0)

    assert (replica.replica, replica.digest, replica.version) == ("r1", old, (0, 1))


def test_an_unstarted_router_says_so(router, frame):
    with pytest.raises(Unavailable, match="has not been started"):
        router.predict(frame)
    assert router.health().problem == "not started"


def test_a_router_does_not_start_without_a_route(router):
    with pytest.raises(NotFound):
        router.start()


def test_a_router_does_not_start_twice(router, old):
    router.start()

    with pytest.raises(BadInput, match="already running"):
        router.start()


def test_no_request_fails_or_goes_back_while_releases_are_switched(router, old, routes, publish, frame):
    router.start()
    done = threading.Event()
    answers, failures = [[], []], []

    def hammer(mine):
        while not done.is_set():
            try:
                mine.append(router.predict(frame))
            except Exception as error:
                failures.append(error)

    def everybody_got(digest):
        return all(mine and mine[-1].digest == digest for mine in answers)

    threads = [threading.Thread(target=hammer, args=(mine,), daemon=True) for mine in answers]
    digests = [publish(score) for score in (0.25, 0.5, 0.75)]
    try:
        for thread in threads:
            thread.start()
        eventually(lambda: everybody_got(old))
        for digest in digests[1:]:
            switch(routes, digest, attempt=digest)
            eventually(lambda digest=digest: everybody_got(digest))
    finally:
        done.set()
        for thread in threads:
            thread.join()

    scores = dict(zip(digests, (0.25, 0.5, 0.75), strict=True))
    assert failures == []
    assert digests[0] == old
    for mine in answers:
        assert [answer.revision for answer in mine] == sorted(answer.revision for answer in mine)
        assert all(answer.detections.scores[0] == scores[answer.digest] for answer in mine)
    eventually(lambda: routes.replicas("m", 0.0)[0].digest == digests[2])


def test_the_old_release_answers_until_the_new_one_is_warm(routes, releases, load, old, publish, frame):
    loading, go_on = threading.Event(), threading.Event()

    def slow_load(folder):
        if folder.name != old:
            loading.set()
            assert go_on.wait(5)
        return load(folder)

    with Router("m", routes, releases, slow_load, replica="r1", poll_s=POLL_S) as router:
        new = publish(0.5)
        switch(routes, new)
        assert loading.wait(5)
        assert router.predict(frame).digest == old
        assert routes.replicas("m", 0.0)[0].digest == old
        go_on.set()
        eventually(lambda: router.predict(frame).digest == new)


def test_a_damaged_new_release_is_never_served_and_is_retried(
    router, old, routes, publish, blobs, frame, caplog
):
    router.start()
    new = publish(0.5)
    weights = blobs.root / "releases" / new / "weights.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(b"0.9")
    switch(routes, new)

    eventually(lambda: router.health().problem is not None)
    assert "weights.safetensors" in router.health().problem
    assert router.predict(frame).digest == old
    eventually(lambda: routes.replicas("m", 0.0)[0].seen_at > time.time() - 0.5)
    assert routes.replicas("m", 0.0)[0].digest == old
    weights.write_bytes(good)
    eventually(lambda: router.predict(frame).digest == new)
    eventually(lambda: router.health().problem is None)

    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1, "one warning per problem, not one per poll"


def test_a_release_that_answers_nonsense_fails_its_warm_up(routes, releases, load, old, publish, frame):
    class Nonsense:
        def predict(self, images, confidence):
            return [Detections.of([[0, 0, 1, 1]], [7], [0.5]) for _ in images]

    picky = lambda folder: load(folder) if folder.name == old else Nonsense()  # noqa: E731
    with Router("m", routes, releases, picky, replica="r1", poll_s=POLL_S) as router:
        switch(routes, publish(0.5))
        eventually(lambda: router.health().problem is not None)

        assert "answers class 7 but has 2" in router.health().problem
        assert router.predict(frame).digest == old


def test_a_release_must_answer_the_golden_frames_before_it_serves(routes, releases, load, old):
    golden = np.full((8, 8, 3), 7, np.uint8)
    asked = []

    class Recording(load):
        def predict(self, images, confidence):
            asked.extend(images)
            return super().predict(images, confidence)

    with Router("m", routes, releases, Recording, replica="r1", poll_s=POLL_S, golden=[golden]):
        assert len(asked) == 1
        assert asked[0] is golden


class Flaky(RouteStore):
    """Stands in for a database server that can be switched off."""

    down = False

    def get(self, model):
        if self.down:
            raise Unavailable("the database does not answer")
        return super().get(model)


def test_a_lost_store_stops_nothing_and_its_return_is_noticed(
    state, releases, load, old, publish, frame, caplog
):
    routes = Flaky(state)
    with Router("m", routes, releases, load, replica="r1", poll_s=POLL_S) as router:
        routes.down = True
        eventually(lambda: router.health().problem is not None)
        assert router.predict(frame).digest == old
        assert "keeps serving" in caplog.text

        routes.down = False
        new = publish(0.5)
        switch(routes, new)
        eventually(lambda: router.predict(frame).digest == new)
        eventually(lambda: router.health().problem is None)


class Rewound(RouteStore):
    """Stands in for a database restored from an old backup."""

    shown = None

    def get(self, model):
        return self.shown or super().get(model)


def test_a_store_that_lost_writes_does_not_take_the_router_back(state, releases, load, old, publish, frame):
    routes = Rewound(state)
    before = routes.get("m")
    new = publish(0.5)
    switch(routes, new)
    with Router("m", routes, releases, load, replica="r1", poll_s=POLL_S) as router:
        routes.shown = before
        eventually(lambda: router.health().problem is not None)

        assert "lost writes" in router.health().problem
        assert router.predict(frame).digest == new


def test_a_new_route_to_the_same_release_is_followed_without_loading_it_again(routes, releases, load, old):
    loads = []
    counting = lambda folder: loads.append(folder) or load(folder)  # noqa: E731
    with Router("m", routes, releases, counting, replica="r1", poll_s=POLL_S):
        record = switch(routes, old)
        eventually(lambda: routes.replicas("m", 0.0)[0].version == record.version)

    assert len(loads) == 1


def test_a_router_shows_signs_of_life_and_leaves_when_it_stops(router, old, routes):
    router.start()
    first = routes.replicas("m", 0.0)[0].seen_at
    eventually(lambda: routes.replicas("m", 0.0)[0].seen_at > first)

    router.stop()

    assert routes.replicas("m", 0.0) == []
