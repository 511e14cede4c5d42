"""The tables of `benchmarks/training.py` that docs quote."""

import math
import statistics
from collections.abc import Mapping
from typing import Any


def markdown(result: Mapping[str, Any]) -> str:
    """The table that docs quote; a test compares them."""
    pairs, default = result["recipe"], result["default_recipe"]
    seeds = [f"seed {pair['seed']}" for pair in pairs]
    rows = [("", *seeds, "default recipe"), ("---",) * (len(pairs) + 2)]
    for key, title in (("map50", "mAP50"), ("map50_95", "mAP50-95")):
        rows.append(
            (
                f"{title} of the last epoch, ours / Ultralytics",
                *(
                    f"{pair['ours']['epochs'][-1][key]:.4f} / {pair['theirs']['epochs'][-1][key]:.4f}"
                    for pair in (*pairs, default)
                ),
            )
        )
    every = [pair["parity"] for pair in (*pairs, default)]
    rows += [
        (
            "greatest difference of either in any epoch",
            *(f"{max(one['greatest_difference'].values()):.1g}" for one in every),
        ),
        (
            "greatest relative difference of a loss",
            *(f"{one['greatest_relative_difference_of_a_loss']:.0e}" for one in every),
        ),
        (
            "weights of the best epoch equal, bit by bit",
            *("yes" if one["weights_bit_equal"] else "**no**" for one in every),
        ),
        (
            "epochs that end within an accumulation",
            *(f"{one['epochs_ending_within_an_accumulation']} of {one['epochs']}" for one in every),
        ),
        (
            "processor seconds per epoch, ours / Ultralytics",
            *(both(median("cpu_s", p["ours"]), median("cpu_s", p["theirs"]), 1) for p in (*pairs, default)),
        ),
        (
            "peak memory, MiB, ours / Ultralytics",
            *(both(p["ours"]["peak_mib"], p["theirs"]["peak_mib"], 0) for p in (*pairs, default)),
        ),
    ]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines += ["", "| target | measured | asked |", "| --- | --- | --- |"]
    for name, one in result["targets"].items():
        missed = "" if one["met"] else " (**missed**)"
        lines.append(f"| {name} | {one['value']:.3g}{missed} | at most {one['at_most']:g} |")
    lines.append("")
    for name, found in result["faster"].items():
        last = [found[which]["epochs"][-1]["map50"] for which in ("with", "without")]
        lines.append(
            f"Ours with {name}: {found['cpu_ratio']:.2f} x the processor time of without; mAP50 {last[0]:.3f} and "
            f"{last[1]:.3f} after the last epoch.{compiling(found) if name == 'compile' else ''}"
        )
    for workers, found in result["loading"].items():
        ours, theirs = found["ours"], found["theirs"]
        lines.append(
            f"Loading with {workers}: {ours:.0f} images per second of processor time, Ultralytics {theirs:.0f} "
            f"({ours / theirs:.2f} x)."
        )
    found = result["gpu"]
    lines.append(
        f"GPU figures are not measured yet: {result['gpu_reason']}."
        if found is None
        else f"On {found['devices'][0]}: {found['images_per_s']['ours']:.0f} images/s, Ultralytics "
        f"{found['images_per_s']['theirs']:.0f} ({found['ratio']:.2f} x, asked: at least {found['at_least']})."
    )
    return "\n".join(lines)


def compiling(found: Mapping[str, Any]) -> str:
    """What the first epoch took more, and when that is made up for."""
    one, other = found["with"], found["without"]
    more = one["epochs"][0]["cpu_s"] - other["epochs"][0]["cpu_s"]
    spared = median("cpu_s", other) - median("cpu_s", one)
    after = (
        f"which {math.ceil(more / spared)} later ones make up for"
        if spared > 0
        else "which none makes up for"
    )
    return f" Its first epoch took {more:.0f} s of processor time more, {after}."


def both(ours: float, theirs: float, digits: int) -> str:
    return f"{ours:.{digits}f} / {theirs:.{digits}f} ({ours / theirs:.2f} x)"


def median(key: str, run: Mapping[str, Any]) -> float:
    """Over the epochs but the first."""
    return statistics.median(epoch[key] for epoch in run["epochs"][1:])
