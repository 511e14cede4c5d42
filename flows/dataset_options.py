"""Arguments and options that several of the `retrain dataset` commands have."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Folder = Annotated[
    Path | None,
    typer.Option("--path", help="Folder of the versions; default: dataset.versions_path.", file_okay=False),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the version, such as v1.1.0.")]
Existing = Annotated[str, typer.Argument(metavar="NAME", help="A version, or a tag of one.")]
Source = Annotated[
    Path,
    typer.Argument(metavar="SOURCE", help="Folder, .zip or .tar(.gz) in COCO, YOLO, VOC or only images."),
]
Description = Annotated[str | None, typer.Option(help="One line for the log.")]
Parent = Annotated[
    str | None,
    typer.Option(help="Version to start from, or none; default: the newest.", show_default=False),
]
Splits = Annotated[
    str | None,
    typer.Option(
        metavar="TRAIN,VAL,TEST", help="Shares that add up to 1; default: the parent's, or 0.7,0.2,0.1."
    ),
]
Classes = Annotated[
    str | None, typer.Option(metavar="A,B,C", help="Class names in the order of their indices.")
]
Gold = Annotated[
    bool, typer.Option("--gold", help="Make this version's test images the new frozen gold test.")
]
Waive = Annotated[
    str | None,
    typer.Option(metavar="REASON", help="Accept leaks between splits; the reason is kept in the version."),
]
FormatOfSource = Annotated[
    Literal["coco", "yolo", "voc", "folders"] | None, typer.Option("--format", help="Default: found out.")
]
GroupBy = Annotated[
    str | None,
    typer.Option(
        metavar="RULE",
        help="What a split must not tear apart: image, folder, camera or file-regex=…, where the expression names the "
        "group by its first (…), or by all that it matches. By default what the files say, else each image by "
        "itself.",
    ),
]
SourceLabel = Annotated[
    str | None,
    typer.Option(help="Who labelled: human, auto, seed, …; default: as the files say, else human."),
]
OnError = Annotated[
    Literal["raise", "skip"],
    typer.Option(help="An image that cannot be used stops everything, or is left out."),
]
Relabel = Annotated[
    bool, typer.Option("--relabel", help="Replace the labels of images that are there already.")
]
KeepSplits = Annotated[
    bool, typer.Option("--keep-splits/--ignore-splits", help="Whether official splits in the files hold.")
]
Report = Annotated[
    Path | None, typer.Option(help="Write every problem of the files there.", dir_okay=False, writable=True)
]
OfSplit = Annotated[list[str] | None, typer.Option("--split", help="Only this split; may be repeated.")]
Where = Annotated[
    list[str] | None,
    typer.Option(
        help="Condition such as camera=north* or 'class=car,truck'; may be repeated, all must hold."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Html = Annotated[Path | None, typer.Option(help="Write a page with pictures there.", dir_okay=False)]
OneBased = Annotated[
    bool,
    typer.Option(
        "--one-based",
        help="VOC: corners are pixels counted from 1, as the devkit has them, not edges from 0.",
    ),
]
