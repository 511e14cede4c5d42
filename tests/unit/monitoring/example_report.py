"""One report with every part filled in from values written here, and pictures drawn with numpy."""

import hashlib

import numpy as np

from retrain.boxes import Annotations, Detections
from retrain.monitoring.report import (
    CameraLabels,
    CameraLook,
    CameraSeries,
    Comparison,
    Count,
    DatasetDiff,
    EpochPoint,
    FramePair,
    Incident,
    Interval,
    LabelCounts,
    LabelQuality,
    Labels,
    Ledger,
    LedgerEntry,
    Link,
    LoopReport,
    ModelVersion,
    Moment,
    Picture,
    SliceScores,
    Stage,
    SystemFacts,
    TrainingCurve,
)

START = 1763913600.0
V1, V2 = hashlib.sha256(b"v1").hexdigest(), hashlib.sha256(b"v2").hexdigest()
TRUTH = [[20, 30, 56, 78], [84, 24, 126, 70], [40, 96, 80, 146], [104, 96, 140, 140]]
DRIFT = {"dock-2": "low light and blur", "gate-3": "inverted ink", "yard-4": "low light"}


def picture(dark: bool, seed: int = 0) -> Picture:
    """A shaded 160 px background with one bright patch per true box."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(150, 205, 160)[:, None, None] + rng.normal(0, 6, (160, 160, 3))
    image = ramp * np.array([0.96, 1.0, 0.9])
    for x1, y1, x2, y2 in TRUTH:
        image[y1 + 4 : y2 - 4, (x1 + x2) // 2 - 5 : (x1 + x2) // 2 + 5] = (40, 38, 60)
    return Picture.of(np.clip(image * (0.35 if dark else 1.0), 0, 255).astype(np.uint8))


def scores(kind: str, before: float, after: float, bounds: tuple[float, float], verdict: str) -> SliceScores:
    def compared(shift: float) -> Comparison:
        value = round(after - before, 3)
        return Comparison(before - shift, after - shift, Interval(value, *bounds, 0.95), verdict)

    return SliceScores(kind, f"{kind} cameras", 180, 12, compared(0.0), compared(0.21))


def pair(camera: str, number: int) -> FramePair:
    truth = Annotations.of(TRUTH, [3, 7, 1, 8])
    before = Detections.of(
        [TRUTH[0], TRUTH[1], [30, 100, 74, 150], [2, 2, 30, 30]], [3, 1, 1, 5], [0.81, 0.44, 0.39, 0.1]
    )
    after = Detections.of(
        [[21, 31, 57, 77], [83, 24, 125, 71], TRUTH[2], TRUTH[3]], [3, 7, 1, 8], [0.97, 0.94, 0.9, 0.88]
    )
    return FramePair(camera, f"frame {number}", picture(dark=True, seed=number), truth, before, after)


def series(camera: str) -> CameraSeries:
    def y(x: int) -> float | None:
        if x == 340:
            return None
        level = 0.95 if camera not in DRIFT or x < 200 or x >= 520 else 0.55
        return level + 0.03 * np.sin(x / 23.0)

    points = tuple((float(x), None if y(x) is None else float(y(x))) for x in range(0, 701, 20))
    return CameraSeries(camera, DRIFT.get(camera), 200.0 if camera in DRIFT else None, points)


def curve(title: str, which: str, first: float, epochs: int) -> TrainingCurve:
    points = tuple(
        EpochPoint(
            n,
            None if n == 1 and which == "before" else round(0.98 - (0.98 - first) * 0.55**n, 4),
            {"box": 1.1 + 1.6 * 0.7**n, "cls": 0.7 + 3.1 * 0.6**n, "dfl": 1.0 + 0.9 * 0.75**n},
        )
        for n in range(1, epochs + 1)
    )
    return TrainingCurve(title, which, 96.4, 600, points)


STAGES = [
    ("dataset v1.0.0", "demo", 0, 9, "read back: tag v1.0.0 at commit 4f1c2ab, data.dvc hash equal"),
    ("train v1", "demo", 9, 104, "read back: weights load, mAP50 on val 0.981"),
    ("serve v1", "demo", 104, 109, f"router replica r1 acknowledged {V1[:12]}"),
    ("traffic", "demo", 109, 171, "512 samples in the store, each with its image"),
    ("select", "cycle", 176, 178, "512 samples carry this cycle's id"),
    ("annotate", "cycle", 178, 189, "512 annotations stored, 131 by hand"),
    ("version", "cycle", 189, 197, "read back: tag v1.1.0 at commit abc8123"),
    ("train", "cycle", 197, 262, "read back: checkpoint hash equal"),
    ("evaluate", "cycle", 262, 274, "360 predictions stored per model"),
    ("gate", "cycle", 274, 275, "verdict stored under the cycle's id"),
    ("register", "cycle", 275, 279, "MLflow model version 2 carries the digest"),
    ("promote", "cycle", 279, 284, f"router replica r1 acknowledged digest {V2[:12]}"),
]
MOMENTS = [
    ("256 uncertain frames stored", 0.0, "crossing digits-samples-1 recorded"),
    ("event emitted", 0.2, "retrain.samples.threshold-crossed"),
    ("flow run running", 4.9, "Prefect run brave-otter"),
    ("challenger trained", 93.0, None),
    ("route switched", 111.8, "revision 2"),
    ("new digest served", 112.6, f"router replica r1 acknowledged {V2[:12]}"),
]


def labels() -> Labels:
    cameras = {
        "lobby-1": (40, 31, 9, 0),
        "dock-2": (210, 130, 62, 6),
        "gate-3": (190, 140, 40, 4),
        "yard-4": (112, 80, 20, 2),
    }
    return Labels(
        LabelCounts(collected=552, auto=381, human=131, left_out=12),
        tuple(CameraLabels(name, LabelCounts(*counts)) for name, counts in cameras.items()),
        (
            LabelQuality("auto-labelled", 1403, 0.962, 0.901, 0.871),
            LabelQuality("by hand", 512, 0.991, 0.984, 0.902),
        ),
    )


def ledger() -> Ledger:
    entries, previous = [], "0" * 64
    for seq, (kind, summary) in enumerate(
        [
            ("champion", "v1 is the first champion"),
            ("gate", "better on drifted, not worse on clean"),
            ("champion", "v2 replaces v1"),
        ],
        1,
    ):
        now = hashlib.sha256(f"{previous}{seq}".encode()).hexdigest()
        entries.append(LedgerEntry(seq, kind, START + 90.0 * seq, summary, previous, now))
        previous = now
    return Ledger(tuple(entries), verified=True, check="3 of 3 hashes recomputed and equal")


def example_report() -> LoopReport:
    cameras = ("lobby-1", *DRIFT)
    return LoopReport(
        model="digits",
        outcome="promoted",
        reason="The gate asks for a gain on drifted cameras and no proven loss on clean ones; both hold.",
        started_at=START,
        finished_at=START + 291.0,
        before=ModelVersion("v1", V1, "1", "v1.0.0"),
        after=ModelVersion("v2", V2, "2", "v1.1.0"),
        serving_digest=V2,
        classes=tuple("0123456789"),
        scores=(
            scores("drifted", 0.613, 0.934, (0.281, 0.362), "better"),
            scores("clean", 0.981, 0.979, (-0.009, 0.006), "inconclusive"),
        ),
        incident=Incident(
            "F1, rolling over 40 frames", "higher", "traffic frame", 380.0, 520.0, tuple(map(series, cameras))
        ),
        frame_pairs=tuple(pair(camera, 300 + n) for n, camera in enumerate(cameras)),
        drawn_confidence=0.25,
        cameras=tuple(
            CameraLook(
                name,
                DRIFT.get(name),
                tuple(picture(dark=False, seed=n) for n in range(3)),
                tuple(picture(dark=True, seed=n) for n in range(3)) if name in DRIFT else (),
            )
            for name in cameras
        ),
        training=(
            curve("v1, from scratch", "before", 0.02, 9),
            curve("v2, fine-tuned from v1", "after", 0.72, 6),
        ),
        labels=labels(),
        stages=tuple(Stage(name, who, START + a, START + b, proof) for name, who, a, b, proof in STAGES),
        reaction=tuple(Moment(title, START + 171.0 + at, proof) for title, at, proof in MOMENTS),
        dataset=DatasetDiff(
            "v1.0.0",
            "v1.1.0",
            (Count("train", 600, 1060), Count("val", 100, 152), Count("test", 180, 180)),
            tuple(Count(str(n), 150 + 3 * n, 260 + 7 * n) for n in range(10)),
            "read back: tag v1.1.0 at commit abc8123, the 180 test images have the same digests",
        ),
        ledger=ledger(),
        links=(
            Link("Prefect", "Cycle run brave-otter", "http://127.0.0.1:4200/runs/flow-run/1"),
            Link("MLflow", "Training of v2", "http://127.0.0.1:5000/#/experiments/1/runs/2"),
            Link("Files", "Dataset difference", "git diff v1.0.0 v1.1.0"),
        ),
        opening="`retrain up` starts the Prefect and MLflow pages again.",
        system=SystemFacts(
            "Linux 6.1, Python 3.11.2",
            "2-core test machine",
            2,
            8_000_000_000,
            1_430_000_000,
            {"torch": "2.9.0", "prefect": "3.8.8"},
        ),
    )
