"""Measures near-duplicate detection: what it catches, what it loses, and what it costs.

    python benchmarks/near_duplicates.py [--images 362] [--entries 100000 1000000] [--output FILE]

The thresholds are fitted on the first half of the BCCD images (by number) and reported on the second half, on
simulated cameras, on a few photographs, and on frames in which only something small changed. Times are processor time
on one core. `imagehash` is compared with where it is installed (`pip install imagehash`); nothing else needs it.
"""

import argparse
import io
import json
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree as ET

import cv2
import numpy as np
import psutil
from PIL import Image, ImageEnhance, ImageFilter
from rich.console import Console
from rich.table import Table
from scipy.stats import norm

from retrain.duplicates.near_duplicates import NearDuplicateRule, NearDuplicates
from retrain.duplicates.perceptual_hash import (
    ENTRY,
    PerceptualHash,
    first_same,
    perceptual_hash,
)
from retrain.images import read_image
from retrain.simulation.traffic import FLEET, TrafficSimulator

BCCD = Path(__file__).parents[2] / "shared" / "data" / "bccd"
TRUE_DUPLICATES = {38: 37, 391: 386}
"""Pairs of BCCD that show the same field of view, taken twice with another focus or a shift; the first of each is left
out, since neither finding nor missing it would be wrong: a collection may want both, a test split may not.
"""
DISTANCES = range(16, 41, 2)
DIFFERENCES = np.arange(0.5, 8.25, 0.25)
FIT_DISTANCE, FIT_DIFFERENCE = 0.999, 0.995
"""Recall on the fitting half that the smallest fitting values must reach: by the hashes, and with the close look."""
HASHES_ONLY = float("inf")
FRAMES_PER_CAMERA, RECORDINGS = 100, 10
SPOTS = {"diameter": (0.02, 0.03, 0.05), "contrast": (20, 40, 80)}
SPEED_IMAGES, SPEED_ROUNDS = 60, 7


def main() -> None:
    """Run, print tables, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=362, help="BCCD images to use, evenly chosen")
    parser.add_argument("--entries", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/near_duplicates.json"))
    arguments = parser.parse_args()
    if not BCCD.exists():
        print(f"Not measured: {BCCD} is missing; the BCCD images are only on the developers' machines.")
        return

    fitting, held_out = bccd_halves(arguments.images)
    fitted = fit(fitting)
    rule = NearDuplicateRule()
    rules = {"close look": rule, "hashes only": NearDuplicateRule(rule.max_distance, HASHES_ONLY)}
    questions, stream = ask(held_out, fitting), list(camera_stream())
    result = {
        "machine": {
            "cores": psutil.cpu_count(),
            "platform": platform.platform(),
            "python": platform.python_version(),
        },
        "fitted": fitted,
        "shipped": asdict(rule),
        "held_out": {name: held_out_figures(questions, one) for name, one in rules.items()},
        "cameras": {name: camera_figures(stream, one) for name, one in rules.items()},
        "elsewhere": {
            "photographs": elsewhere(photographs(), rule),
            "simulated frames": elsewhere(simulated_frames(), rule),
        },
        "spots": spot_figures(held_out, rule),
        "speed": speed(held_out[:SPEED_IMAGES]),
        "look_up": [look_up(entries) for entries in arguments.entries],
        "bytes_per_entry": ENTRY.itemsize,
    }
    show(result)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written to {arguments.output}\n\nFor the README:\n\n{markdown(result)}")


def bccd_halves(count: int) -> tuple[list[Path], list[Path]]:
    """`count` images, the lower numbers and the higher ones: neighbours may come from one slide."""
    files = sorted((BCCD / "JPEGImages").glob("*.jpg"), key=number_of)
    files = [file for file in files if number_of(file) not in TRUE_DUPLICATES]
    chosen = [files[i * len(files) // count] for i in range(min(count, len(files)))]
    return chosen[: len(chosen) // 2], chosen[len(chosen) // 2 :]


def number_of(file: Path) -> int:
    return int(re.findall(r"\d+", file.stem)[-1])


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def variants(image: Image.Image, rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    """Copies of an image that show the same."""
    width, height = image.size
    for quality in (30, 50, 70, 90):
        yield f"JPEG {quality}", jpeg(image, quality)
    for percent in (50, 75, 150, 200):
        size = (width * percent // 100, height * percent // 100)
        yield f"scale {percent} %", jpeg(image.resize(size, Image.Resampling.LANCZOS))
    for percent in (85, 115):
        yield f"brightness {percent} %", jpeg(ImageEnhance.Brightness(image).enhance(percent / 100))
    for percent in (2, 5):
        yield f"crop {percent} %", jpeg(cropped(image, percent, rng))
    yield "mirror", jpeg(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    yield "blur 1 px", jpeg(image.filter(ImageFilter.GaussianBlur(1)))


def cropped(image: Image.Image, percent: int, rng: np.random.Generator) -> Image.Image:
    """The image less `percent` of each side, cut at a random place."""
    width, height = (round(side * (100 - percent) / 100) for side in image.size)
    x, y = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
    return image.crop((x, y, x + width, y + height))


def load(file: Path) -> tuple[Image.Image, np.random.Generator]:
    return Image.open(file).convert("RGB"), np.random.default_rng(number_of(file))


def fit(files: list[Path]) -> dict:
    """The smallest thresholds whose recall on `files` reaches the goal; precision is not looked at."""
    distances, differences = [], []
    for file in files:
        base = perceptual_hash(file.read_bytes())
        for _, data in variants(*load(file)):
            copy = perceptual_hash(data)
            turned = base.mirrored
            nearer = turned if turned.distance(copy) < base.distance(copy) else base
            distances.append(nearer.distance(copy))
            differences.append(smallest_difference(nearer, copy))
    near, like = np.array(distances), np.array(differences)
    by_hash = {int(bits): float((near <= bits).mean()) for bits in DISTANCES}
    max_distance = next(bits for bits, recall in by_hash.items() if recall >= FIT_DISTANCE)
    by_look = {float(grey): float(((near <= max_distance) & (like <= grey)).mean()) for grey in DIFFERENCES}
    max_difference = next(grey for grey, recall in by_look.items() if recall >= FIT_DIFFERENCE)
    return {
        "images": len(files),
        "copies": len(near),
        "max_distance": max_distance,
        "max_difference": max_difference,
        "recall": by_look[max_difference],
        "recall_by_distance": by_hash,
        "recall_by_difference": by_look,
    }


def smallest_difference(base: PerceptualHash, copy: PerceptualHash) -> float:
    """The least of `DIFFERENCES` under which the copy passes the close look."""
    passing = (grey for grey in DIFFERENCES if first_same(base.cells[None], copy.cells, grey) is not None)
    return float(next(passing, np.inf))


@dataclass(frozen=True)
class Questions:
    """Hashes asked of an index that holds `stored`."""

    stored: dict[str, PerceptualHash]
    copies: list[tuple[str, str, PerceptualHash]]
    """(stored name, kind of copy, hash)."""
    changed: list[PerceptualHash]
    """Stored images with one object less."""
    strangers: list[PerceptualHash]


def ask(files: list[Path], others: list[Path]) -> Questions:
    return Questions(
        {file.name: perceptual_hash(file.read_bytes()) for file in files},
        [(file.name, kind, perceptual_hash(data)) for file in files for kind, data in variants(*load(file))],
        [perceptual_hash(jpeg(image, 95)) for file in files for image in with_one_object_less(file)],
        [perceptual_hash(file.read_bytes()) for file in others],
    )


def held_out_figures(questions: Questions, rule: NearDuplicateRule) -> dict:
    """Every copy, every other image (each stored one against the rest too) and every changed image."""
    index = NearDuplicates(rule, scope="global")
    for name, picture in questions.stored.items():
        index.add(name, picture)
    found: dict[str, list[bool]] = {}
    confused = 0
    for name, kind, picture in questions.copies:
        match = index.find(picture)
        found.setdefault(kind, []).append(match is not None and match.id == name)
        confused += match is not None and match.id != name
    lost = sum(index.find(picture) is not None for picture in questions.changed)
    dropped = sum(index.find(picture) is not None for picture in questions.strangers)
    for name, picture in questions.stored.items():
        index.remove(name)
        dropped += index.find(picture) is not None
        index.add(name, picture)
    right = sum(sum(hits) for hits in found.values())
    return {
        "images": len(index),
        "recall": share(right, len(questions.copies)),
        "recall_by_kind": {kind: share(sum(hits), len(hits)) for kind, hits in found.items()},
        "precision": share(right, right + confused + dropped),
        "copies_taken_for_another": confused,
        "distinct_images_dropped": share(dropped, len(questions.strangers) + len(index)),
        "one_object_less_dropped": share(lost, len(questions.changed)),
    }


def with_one_object_less(file: Path) -> Iterator[Image.Image]:
    """The image with one cell painted over from its surroundings, once for each class in it."""
    image, rng = load(file)
    boxes: dict[str, list[list[int]]] = {}
    for item in ET.parse(BCCD / "Annotations" / f"{file.stem}.xml").getroot().iter("object"):
        edges = [int(item.findtext(f"bndbox/{edge}")) for edge in ("xmin", "ymin", "xmax", "ymax")]
        boxes.setdefault(item.findtext("name"), []).append(edges)
    for label in sorted(boxes):
        x1, y1, x2, y2 = boxes[label][rng.integers(len(boxes[label]))]
        mask = np.zeros((image.height, image.width), np.uint8)
        mask[max(y1 - 3, 0) : y2 + 3, max(x1 - 3, 0) : x2 + 3] = 255
        yield Image.fromarray(cv2.inpaint(np.asarray(image), mask, 3, cv2.INPAINT_TELEA))


def camera_stream() -> Iterator[tuple[str, PerceptualHash, PerceptualHash, PerceptualHash]]:
    """Camera, frame, a copy of it, and the frame with one digit replaced by another frame's.

    All frames of one camera are one recording: they share the page and each has other digits.
    """
    traffic = TrafficSimulator(seed=1, split="test", frames_per_recording=FRAMES_PER_CAMERA)
    for camera in (camera.id for camera in FLEET):
        frames = [traffic.frame(camera, number) for number in range(FRAMES_PER_CAMERA)]
        for frame, after in zip(frames, [*frames[1:], frames[0]], strict=True):
            x1, y1, x2, y2 = after.annotations.boxes[0].astype(int)
            swapped = frame.image.copy()
            swapped[y1:y2, x1:x2] = after.image[y1:y2, x1:x2]
            encoded = ((frame.image, 95), (frame.image, 70), (swapped, 95))
            yield camera, *(perceptual_hash(jpeg(Image.fromarray(image), q)) for image, q in encoded)


def camera_figures(
    stream: list[tuple[str, PerceptualHash, PerceptualHash, PerceptualHash]], rule: NearDuplicateRule
) -> dict:
    """Each frame is offered and stored; then its copy and its changed twin are offered."""
    index = NearDuplicates(rule)
    dropped = caught = swapped_dropped = 0
    for number, (camera, frame, copy, swapped) in enumerate(stream):
        dropped += index.find(frame, camera) is not None
        index.add(str(number), frame, camera)
        match = index.find(copy, camera)
        caught += match is not None and match.id == str(number)
        swapped_dropped += index.find(swapped, camera) is not None
    return {
        "other_digits_dropped": share(dropped, len(stream)),
        "one_digit_swapped_dropped": share(swapped_dropped, len(stream)),
        "copies_caught": share(caught, len(stream)),
    }


def photographs() -> list[Image.Image]:
    """Sharp pictures of streets, people and flowers that come with scikit-learn and Ultralytics."""
    folders = {"sklearn": "datasets/images", "ultralytics": "assets"}
    return [
        Image.open(file).convert("RGB")
        for package, folder in folders.items()
        for file in sorted((Path(find_spec(package).origin).parent / folder).glob("*.jpg"))
    ]


def simulated_frames() -> list[Image.Image]:
    """One small frame (160 px) of each recording: thin pen strokes on bright paper."""
    traffic = TrafficSimulator(seed=1, split="test", frames_per_recording=1)
    return [
        Image.fromarray(traffic.frame(camera.id, number).image)
        for camera in FLEET
        for number in range(RECORDINGS)
    ]


def elsewhere(images: list[Image.Image], rule: NearDuplicateRule) -> dict:
    """Recall on pictures of another kind than those fitted on, crops apart."""
    found: dict[str, list[bool]] = {"crops": [], "other copies": []}
    for number, image in enumerate(images):
        index, rng = NearDuplicates(rule), np.random.default_rng(number)
        index.add("base", perceptual_hash(jpeg(image, 95)))
        for kind, data in variants(image, rng):
            kept = "crops" if kind.startswith("crop") else "other copies"
            found[kept].append(index.find(perceptual_hash(data)) is not None)
    return {"images": len(images), **{kind: share(sum(hits), len(hits)) for kind, hits in found.items()}}


def spot_figures(files: list[Path], rule: NearDuplicateRule) -> list[dict]:
    """How often a disc painted into an image makes it another one, by its diameter and contrast."""
    figures = []
    for diameter in SPOTS["diameter"]:
        for contrast in SPOTS["contrast"]:
            kept = 0
            for file in files:
                index = NearDuplicates(rule)
                index.add("base", perceptual_hash(file.read_bytes()))
                spotted = jpeg(with_spot(*load(file), diameter, contrast), 95)
                kept += index.find(perceptual_hash(spotted)) is None
            figures.append({"diameter": diameter, "contrast": contrast, "kept": share(kept, len(files))})
    return figures


def with_spot(image: Image.Image, rng: np.random.Generator, diameter: float, contrast: int) -> Image.Image:
    """A disc `diameter` of the width across, darker than what it covers (brighter where that is dark)."""
    pixels, radius = np.asarray(image).astype(np.int16), diameter * image.width / 2
    x, y = rng.uniform(radius, image.width - radius), rng.uniform(radius, image.height - radius)
    rows, columns = np.mgrid[: image.height, : image.width]
    disc = (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
    pixels[disc] += contrast if pixels[disc].mean() < 128 else -contrast
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def share(part: int, whole: int) -> dict:
    """A share with its 95 % interval (Wilson 1927)."""
    if whole == 0:
        return {"part": 0, "whole": 0, "share": None, "low": None, "high": None}
    z, p = float(norm.ppf(0.975)), part / whole
    middle = (p + z * z / (2 * whole)) / (1 + z * z / whole)
    half = z / (1 + z * z / whole) * np.sqrt(p * (1 - p) / whole + z * z / (4 * whole * whole))
    low, high = float(max(middle - half, 0)), float(min(middle + half, 1))
    return {"part": int(part), "whole": int(whole), "share": p, "low": low, "high": high}


def speed(files: list[Path]) -> dict:
    """Microseconds per image, every function in turn in each round; ratios are medians of the rounds' ratios."""
    images = [file.read_bytes() for file in files]
    grey = [read_image(image).thumbnail for image in images]
    timed: dict[str, Callable[[], object]] = {
        "ours, from JPEG bytes": lambda: [perceptual_hash(image) for image in images],
        "ours, after read_image": lambda: [perceptual_hash(picture) for picture in grey],
        "read_image alone": lambda: [read_image(image) for image in images],
    }
    try:
        import imagehash
    except ImportError:
        print("imagehash is not installed (pip install imagehash): no comparison with it.")
    else:

        def theirs(data: bytes) -> object:
            image = Image.open(io.BytesIO(data))
            return imagehash.phash(image), imagehash.dhash(image)

        timed["imagehash, phash + dhash"] = lambda: [theirs(image) for image in images]
    rounds: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(SPEED_ROUNDS):
        for name, run in timed.items():
            started = time.process_time()
            run()
            rounds[name].append((time.process_time() - started) / len(images) * 1e6)
    ratios = [
        theirs / ours
        for ours, theirs in zip(
            rounds["ours, from JPEG bytes"], rounds.get("imagehash, phash + dhash", []), strict=False
        )
    ]
    return {
        "images": len(images),
        "us_per_image": {name: round(statistics.median(times), 1) for name, times in rounds.items()},
        "times_imagehash": round(statistics.median(ratios), 2) if ratios else None,
        "times_imagehash_range": [round(min(ratios), 2), round(max(ratios), 2)] if ratios else None,
    }


def look_up(entries: int, batch: int = 256) -> dict:
    """Microseconds to look up one picture (and its mirror image) among random ones of one camera."""
    rng = np.random.default_rng(0)
    started = time.process_time()
    index = NearDuplicates.from_rows(random_rows(entries, rng), capacity=entries)
    built_s = time.process_time() - started
    asked = [PerceptualHash.from_bytes(data) for _, _, data in random_rows(batch, rng)]
    for picture in asked:
        assert picture.mirrored
    single = []
    for picture in asked[:32]:
        started = time.process_time()
        index.find(picture)
        single.append((time.process_time() - started) * 1e6)
    started = time.process_time()
    index.find_many(asked, [""] * batch)
    together = (time.process_time() - started) / batch * 1e6
    return {
        "entries": entries,
        "from_rows_s": round(built_s, 2),
        "single_us": round(statistics.median(single)),
        "batch_us": round(together),
        "mib": round(index.nbytes / 2**20),
    }


def random_rows(count: int, rng: np.random.Generator) -> Iterator[tuple[str, str, bytes]]:
    """Rows of pictures that have nothing in common."""
    blank = bytes(ENTRY.itemsize - 16)
    for start in range(0, count, 10_000):
        keys = rng.bytes(16 * min(10_000, count - start))
        for at in range(0, len(keys), 16):
            yield str(start + at // 16), "", keys[at : at + 16] + blank


def show(result: dict) -> None:
    """Print what README quotes."""
    console, fitted = Console(), result["fitted"]
    rule = Table(
        "rule", "fitted", "shipped", title=f"Fitted on {fitted['images']} images", title_justify="left"
    )
    for name in ("max_distance", "max_difference"):
        rule.add_row(name, f"{fitted[name]:g}", f"{result['shipped'][name]:g}")
    console.print(rule)
    held_out, cameras = result["held_out"], result["cameras"]
    quality = Table("held out", *held_out, title="What is caught and what is lost", title_justify="left")
    for key in ("recall", "precision", "distinct_images_dropped", "one_object_less_dropped"):
        quality.add_row(key, *(percent(one[key]) for one in held_out.values()))
    for kind in held_out["close look"]["recall_by_kind"]:
        quality.add_row(
            f"recall, {kind}", *(percent(one["recall_by_kind"][kind]) for one in held_out.values())
        )
    for key in cameras["close look"]:
        quality.add_row(f"cameras: {key}", *(percent(one[key]) for one in cameras.values()))
    for name, one in result["elsewhere"].items():
        for kind in ("other copies", "crops"):
            quality.add_row(f"recall, {one['images']} {name}, {kind}", percent(one[kind]), "not measured")
    for spot in result["spots"]:
        name = f"disc of {spot['diameter']:.0%} width, {spot['contrast']} grey levels: kept"
        quality.add_row(name, percent(spot["kept"]), "not measured")
    console.print(quality)
    costs = Table("cost", "us", title="What it costs, one core", title_justify="left")
    for name, microseconds in result["speed"]["us_per_image"].items():
        costs.add_row(name, f"{microseconds:.0f}")
    for one in result["look_up"]:
        costs.add_row(f"look-up among {one['entries']:,}, one by one", str(one["single_us"]))
        costs.add_row(f"look-up among {one['entries']:,}, 256 together", str(one["batch_us"]))
    console.print(costs)


def markdown(result: dict) -> str:
    """The table README quotes; a test compares them."""
    held_out, cameras, speeds = result["held_out"], result["cameras"], result["speed"]
    rows = [("near-duplicates, share [95 % interval]", "shipped rule", "hashes only"), ("---",) * 3]
    named = {
        "recall": "copies recognised",
        "precision": "matches that are right",
        "one_object_less_dropped": "images dropped though one cell is gone",
    }
    rows += [(name, *(percent(one[key]) for one in held_out.values())) for key, name in named.items()]
    named = {
        "other_digits_dropped": "fixed cameras: frames dropped though the digits differ",
        "one_digit_swapped_dropped": "fixed cameras: frames dropped though one digit differs",
        "copies_caught": "fixed cameras: copies recognised",
    }
    rows += [(name, *(percent(one[key]) for one in cameras.values())) for key, name in named.items()]
    for name, one in result["elsewhere"].items():
        rows += [
            (f"{one['images']} {name}: {kind} recognised", percent(one[kind]), "not measured")
            for kind in ("other copies", "crops")
        ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    ours = speeds["us_per_image"]["ours, from JPEG bytes"]
    ratio = speeds["times_imagehash"]
    compared = "not compared with" if ratio is None else f"{ratio:.1f} x"
    look_ups = ", ".join(f"{one['single_us']} µs among {one['entries']:,}" for one in result["look_up"])
    return (
        f"{table}\n\nFitted on {result['fitted']['images']} images, reported on {held_out['close look']['images']} "
        f"others. {1e6 / ours:.0f} images/s per core from JPEG bytes ({compared} `imagehash`); a look-up takes "
        f"{look_ups}."
    )


def percent(value: dict) -> str:
    if value["share"] is None:
        return "not measured"
    return f"{value['share']:.2%} [{value['low']:.2%}, {value['high']:.2%}]"


if __name__ == "__main__":
    main()
