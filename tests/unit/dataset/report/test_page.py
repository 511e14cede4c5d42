import re
from html.parser import HTMLParser

import msgspec
import pytest

from retrain.dataset.comparing.diff import diff_versions
from retrain.dataset.report.page import diff_page, stats_page
from retrain.dataset.stats import dataset_statistics
from retrain.dataset.version import Waiver
from retrain.errors import BadInput

replace = msgspec.structs.replace
STATS_SECTIONS = [
    "summary", "splits", "classes", "samples", "images", "boxes", "positions", "together", "quality", "time",
    "cameras", "places",
]  # fmt: skip
DIFF_SECTIONS = ["summary", "images", "added", "relabelled", "classes", "sizes", "cameras", "leaks", "header"]
VOID = {"meta", "link", "img", "input", "br"}
EVIL = "<script>alert(1)</script>\"'&"
BOX = (1.0, 1.0, 40.0, 40.0)


class Page(HTMLParser):
    """Fails on a tag that closes another one."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.addresses: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        self.addresses += [value for name, value in attrs if name in {"href", "src"}]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in {"style", "title"}:
            self.texts.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.texts)).replace("\u202f", " ")


def stats(version, samples=()):
    return stats_page(dataset_statistics(version), samples)


def review(before, after, added=(), relabelled=()):
    return diff_page(diff_versions(before, after), before, after, added, relabelled)


@pytest.fixture
def dataset(album, build):
    """Ten images with everything a page can show."""
    items = [
        album.picture(
            n, [(n % 2, BOX), (0, (50.0, 10.0, 55.0, 15.0))],
            split=("train", "val", "test")[n % 3], source=("seed", "auto")[n % 2],
            metadata={
                "camera": f"gate-{n % 2}", "captured_at": f"2026-01-{n + 1:02d}T10:00:00",
                "latitude": 48 + n / 50, "longitude": 11.5, "location": "yard",
            },
        )
        for n in range(10)
    ]  # fmt: skip
    return build(items, description="Everything")


def test_every_section_of_the_statistics_is_there_once_and_every_tag_is_closed(dataset, album):
    page = Page(stats(dataset, album.samples(dataset.items)))

    assert [name for name in page.ids if name in STATS_SECTIONS] == STATS_SECTIONS
    assert len(page.ids) == len(set(page.ids))
    assert page.texts.count("10") > 0
    for said in (
        "v1.0.0", "Everything", "3 : 1", "gate-0", "cat", "120 \u00d7 80", "10 of 10 images say when they were taken",
        "from 2026-01-01 10:00 to 2026-01-10 10:00", "yard", "between latitude 48.0000 and 48.1800",
    ):  # fmt: skip
        assert said in page.text


def test_every_section_of_a_change_is_there_once_and_every_tag_is_closed(dataset, album):
    before, after = changed(dataset, album)

    page = Page(review(before, after, album.samples(after.items[:3]), album.samples(after.items)))

    assert [name for name in page.ids if name in DIFF_SECTIONS] == DIFF_SECTIONS
    assert len(page.ids) == len(set(page.ids))


def changed(dataset, album):
    """The dataset, and one with an image added, one removed, one of test relabelled and a leak waived."""
    first = next(item for item in dataset.items if item.split == "test")
    kept = [item for item in dataset.items if item.image != first.image][1:]
    moved = replace(
        first, objects=(replace(first.objects[0], box=(2.0, 2.0, 40.0, 40.0)), *first.objects[1:])
    )
    waiver = Waiver("near-duplicate", (kept[0].image, kept[1].image), ("train", "val"), "as published", 3)
    after = [*kept, moved, album.picture(77, [(1, BOX)])]
    items = tuple(sorted(after, key=lambda item: item.image))
    return dataset, type(dataset)(
        **{**vars_of(dataset), "name": "v1.1.0", "items": items, "waivers": (waiver,), "parent": "v1.0.0"}
    )


def vars_of(version):
    names = ("description", "classes", "parent_digest", "splits", "salt", "gold")
    return {name: getattr(version, name) for name in names}


def test_a_change_is_told_in_a_sentence_and_what_to_look_at(dataset, album):
    before, after = changed(dataset, album)

    page = Page(review(before, after, [], album.samples(after.items)))

    for said in (
        "v1.1.0 has 10 images, as many as v1.0.0: 1 added, 1 removed.",
        "1 image was relabelled (objects: 1 moved).",
        "1 image relabelled in test: scores on v1.0.0 and v1.1.0 do not compare.",
        "1 leak between splits accepted by a new waiver",
        "near-duplicate, 3 of 128 bits apart: “as published”",
        "Cameras new in the dataset: north.",
    ):
        assert said in page.text


def test_only_relabelled_images_get_a_pair_of_pictures(dataset, album):
    before, after = changed(dataset, album)

    html = review(before, after, [], album.samples(after.items))

    assert html.count('<figure class="pair">') == 1
    assert html.count('<g class="before"') == html.count('<g class="after"') == 1


def test_names_from_outside_are_text(album, build):
    item = album.picture(
        1, [(0, BOX)], source=EVIL, group=EVIL,
        metadata={"camera": EVIL, "location": EVIL, "captured_at": EVIL},
    )  # fmt: skip
    evil = {
        "name": EVIL, "description": EVIL, "classes": (EVIL, "dog"),
        "waivers": (Waiver("group", ("a" * 64, "b" * 64), (EVIL, EVIL), EVIL),), "salt": EVIL,
    }  # fmt: skip
    relabelled = replace(item, objects=(replace(item.objects[0], class_index=1),))
    before, after = build([item], **evil), build([relabelled], **{**evil, "salt": "", "gold": EVIL})

    for html in (
        stats(before, album.samples([item])),
        review(before, after, album.samples([item]), album.samples([relabelled])),
    ):
        page = Page(html)
        assert "script" not in page.tags
        assert "alert(1)" in page.text
        assert "<script>" not in html


def test_a_page_needs_nothing_from_outside(dataset, album):
    before, after = changed(dataset, album)

    for html in (
        stats(dataset, album.samples(dataset.items)),
        review(before, after, album.samples(after.items), album.samples(after.items)),
    ):
        page = Page(html)
        assert {address.partition(":")[0] for address in page.addresses if address[0] != "#"} == {"data"}
        assert {address[1:] for address in page.addresses if address[0] == "#"} <= set(page.ids)
        assert set(re.findall(r"url\((.{5})", html)) <= {"data:"}
        assert "default-src 'none'" in html


def test_an_empty_version_says_so_everywhere(build):
    text = Page(stats(build([]))).text

    for said in ("no samples were drawn", "no objects", "no image names its camera", "no image says when"):
        assert said in text
    assert "None" not in text
    assert "nan" not in text.lower().split()


def test_nothing_changed_is_said(build):
    text = Page(review(build([]), build([]))).text

    for said in (
        "nothing unusual",
        "none were added",
        "none were relabelled",
        "unchanged",
        "nothing was waived",
    ):
        assert said in text


def test_a_version_of_one_image_and_no_objects_has_a_page(album, build):
    version = build([album.picture(1, metadata={})])

    page = Page(stats(version, album.samples(version.items)))

    assert "no objects" in page.text
    assert page.text.count("120 \u00d7 80") == 1


def test_a_version_without_classes_or_splits_has_pages(build):
    bare = build([], classes=(), splits={})

    assert "the version has no classes" in Page(stats(bare)).text
    assert "neither version has splits" in Page(review(bare, bare)).text


def test_eighty_classes_are_all_on_the_page(album, build):
    names = tuple(f"class number {n}" for n in range(80))
    version = build([album.picture(n, [(n, BOX), ((n + 1) % 80, BOX)]) for n in range(80)], classes=names)

    html = stats(version)

    assert html.count('<div class="heat"') == 81
    for name in names:
        assert html.count(f'title="{name}"') == 2
    assert "1 image of 2 with class number 3 also show class number 4" in html
    assert len(html) < 1_000_000


def test_moved_images_and_lost_classes_ask_for_a_decision(album, build):
    item = album.picture(1, [(0, BOX)])
    before = build([item])
    after = build([replace(item, split="val", objects=())], name="v1.1.0")

    text = Page(review(before, after)).text

    assert "needs a decision" in text
    assert "1 image moved from train to val: a model trained on v1.0.0 may have learnt from" in text
    assert "No object is left of: cat." in text


def test_a_sample_with_wrong_bytes_stops_the_page(album, build):
    item, other = album.picture(1), album.picture(2)

    with pytest.raises(BadInput, match=item.image):
        stats(build([item]), [(item, album.data[other.image])])
