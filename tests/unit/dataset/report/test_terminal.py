import re

from rich.console import Console

from retrain.dataset.report.terminal import statistics_view
from retrain.dataset.stats import dataset_statistics

BOX = (1.0, 1.0, 40.0, 40.0)


def shown(version):
    console = Console(width=160, record=True, color_system=None, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(statistics_view(dataset_statistics(version)))
    return [
        re.sub(r" {2,}", "  ", line.replace("\u202f", " ")).strip()
        for line in console.export_text().splitlines()
    ]


def test_the_numbers_are_in_the_terminal(album, build):
    items = [
        album.picture(n, [(0, BOX), (n % 2, BOX)], split=("train", "val")[n % 2], metadata={
            "camera": "gate", "captured_at": "2026-01-01T10:00:00", "latitude": 48.0, "longitude": 11.0,
        })
        for n in range(4)
    ]  # fmt: skip

    lines = shown(build(items, description="Everything"))

    for line in (
        "images  4",
        "objects  8  2 an image",
        "imbalance ratio  3  most frequent class over the rarest one present",
        "train  2  50.0 %  4  2",
        "cat  6  75.0 %  4  4  2  0  39 px",
        "labelled by seed  4  100.0 % of images, 8 objects",
        "from  2026-01-01T10:00:00+00:00  to 2026-01-01T10:00:00+00:00",
        "gate  4  8  2026-01-01T10:00:00+00:00  2026-01-01T10:00:00+00:00",
    ):
        assert line in lines


def test_an_empty_version_can_be_shown(build):
    lines = shown(build([], classes=(), splits={}))

    assert "images  0" in lines
    assert "objects  0" in lines


def test_names_with_markup_are_shown_as_they_are(album, build):
    item = album.picture(1, [(0, BOX)], source="[red]x[/red]", metadata={"camera": "[/oops]"})

    text = "\n".join(shown(build([item], name="[bold]v1", classes=("[link=x]cat",))))

    for said in ("[red]x[/red]", "[/oops]", "dataset [bold]v1", "[link=x]cat"):
        assert said in text


def test_long_lists_are_cut_and_say_so(album, build):
    names = tuple(f"class {n}" for n in range(80))

    assert "… 40 more" in shown(build([album.picture(1, [(0, BOX)])], classes=names))
