"""What tidecv says of an evaluation, asked in this kernel's conventions."""

import numpy as np
from tidecv import TIDE, Data

from retrain.evaluation.tide import ERROR_TYPES

ORDER = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")


def by_tidecv(one):
    """Counts and gains by our names, special gains, type of each detection, and how many objects each AP is about.

    tidecv is given no crowds and nothing found in them, no more than counts, and the last object first, which it then
    takes of equal ones; its mean is taken over classes that have objects.
    """
    real, counted = ~one.truth.crowd, one.matches.counted & ~one.matches.ignored[:, 0]
    truth, found = Data("truth", max_dets=10**9), Data("found")
    for row in np.flatnonzero(real)[::-1]:
        truth.add_ground_truth(
            int(one.truth.image[row]), int(one.truth.label[row]), xywh(one.truth.boxes[row])
        )
    rows = np.flatnonzero(counted)
    for row in rows:
        label, score = int(one.predictions.label[row]), float(one.predictions.scores[row])
        found.add_detection(int(one.predictions.image[row]), label, score, xywh(one.predictions.boxes[row]))
    for image in range(len(one.truth.images)):
        truth.add_image(image, str(image))
    run = TIDE().evaluate(truth, found)
    classes = sorted(set(one.truth.label[real].tolist()))
    named = {kind.short_name: kind for kind in TIDE._error_types}

    def map50(data):
        aps = [data.objs[index].get_ap() for index in classes if not data.objs[index].is_empty()]
        # tidecv fails when nothing is left to be found.
        return sum(aps) / len(aps) / 100 if aps else float("nan")

    base = map50(run.ap_data)
    fixed = {
        name: run.fix_errors(lambda error, kind=kind: isinstance(error, kind)) for name, kind in named.items()
    }
    kinds = {
        int(rows[error.pred["_id"]]): ERROR_TYPES[ORDER.index(error.short_name)]
        for error in run.errors
        if error.short_name != "Miss"
    }
    special = run.fix_errors(false_neg_dict=run.false_negatives)
    asked = {data.objs[index].num_gt_positives for data in (*fixed.values(), special) for index in classes}
    return {
        "counts": {ours: len(run.error_dict[named[name]]) for name, ours in zip(ORDER, ERROR_TYPES, strict=True)},
        "delta_ap": {
            ours: max(map50(fixed[name]) - base, 0.0) for name, ours in zip(ORDER, ERROR_TYPES, strict=True)
        },
        "false_negatives": map50(special) - base,
        "false_positives": map50(run.fix_errors(transform=lambda score, right, info: (int(right), right, info)))
        - base,
        "map50": base,
        "kinds": kinds,
        "asked": asked,
    }  # fmt: skip


def plain_tidecv(one):
    """Gains by our names, and those of all false positives and negatives, of an evaluation without crowds, as it is."""
    truth, found = Data("truth"), Data("found")
    for row, box in enumerate(one.truth.boxes):
        truth.add_ground_truth(int(one.truth.image[row]), int(one.truth.label[row]), xywh(box))
    for row, box in enumerate(one.predictions.boxes):
        label, score = int(one.predictions.label[row]), float(one.predictions.scores[row])
        found.add_detection(int(one.predictions.image[row]), label, score, xywh(box))
    for image in range(len(one.truth.images)):
        truth.add_image(image, str(image))
    tide = TIDE()
    tide.evaluate(truth, found)
    main, special = tide.get_main_errors()["found"], tide.get_special_errors()["found"]
    gains = {ours: main[name] / 100 for name, ours in zip(ORDER, ERROR_TYPES, strict=True)}
    return gains, [special["FalsePos"] / 100, special["FalseNeg"] / 100]


def xywh(box):
    return [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]
