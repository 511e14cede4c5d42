"""Made-up recordings of several cameras, some of which a model sees worse."""

import numpy as np

from retrain.boxes import Annotations
from retrain.evaluation.evaluation import Evaluation
from retrain.evaluation.predictions import Predictions
from retrain.evaluation.protocol import EvaluationProtocol
from retrain.evaluation.sizes import own_sizes
from retrain.evaluation.truth import LabelledImage, Truth

_PLACES = np.array(
    [[x, y, x + 20, y + 20] for x in range(0, 120, 40) for y in range(0, 120, 40)], dtype=float
)


def recorded(seed, cameras=4, recordings=5, images=6, bad=None, lost=0.4, spread=1.0):
    """Every recording has a quality of its own, and is of one camera and weather; the hour passes within it.

    Args:
        bad: where more objects are missed, told from attributes.
        lost: share of objects that is missed there in addition.
        spread: of the qualities of recordings.
    """
    rng = np.random.default_rng(seed)
    labelled, rows = [], []
    for recording in range(cameras * recordings):
        quality = 0.5 + 0.4 * spread * rng.uniform(-1, 1)
        weather, hour = rng.choice(["sun", "rain", "fog"]), rng.integers(0, 24)
        for frame in range(images):
            attributes = {
                "camera": f"camera {recording % cameras}",
                "weather": str(weather),
                "hour": float((hour + frame) % 24),
            }
            boxes = _PLACES[rng.permutation(len(_PLACES))[: rng.integers(2, 9)]]
            seen = rng.random(len(boxes)) < quality - (lost if bad and bad(attributes) else 0)
            name = f"{recording:03}-{frame:03}"
            labelled.append(
                LabelledImage(
                    name, name[:3], Annotations(boxes, np.zeros(len(boxes), np.int64)), attributes=attributes
                )
            )
            rows += [(len(labelled) - 1, *box, rng.uniform(0.3, 1)) for box in boxes[seen]]
    found = np.array(rows).reshape(-1, 6)
    order = np.lexsort((-found[:, 5], found[:, 0]))
    found = found[order]
    return Evaluation(
        Truth.of(labelled, ["thing"]),
        Predictions(
            found[:, 0].astype(np.int64),
            np.zeros(len(found), np.int64),
            found[:, 1:5],
            found[:, 5],
            own_sizes(found[:, 1:5]),
        ),
        EvaluationProtocol(),
        0.25,
    )
