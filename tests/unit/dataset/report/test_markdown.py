import msgspec

from retrain.dataset.comparing.diff import diff_versions
from retrain.dataset.report.markdown import MOST_ROWS, diff_markdown
from retrain.dataset.version import Waiver

BOX = (1.0, 1.0, 40.0, 40.0)


def test_a_change_reads_as_markdown(album, build):
    item, new = album.picture(1, [(0, BOX)]), album.picture(2, [(1, BOX), (1, BOX)])
    waiver = Waiver("near-duplicate", (item.image, new.image), ("train", "test"), "as published", 4)
    after = build([item, msgspec.structs.replace(new, split="test")], name="v1.1.0", waivers=(waiver,))

    text = diff_markdown(diff_versions(build([item]), after))

    assert text.startswith(
        "# v1.0.0 → v1.1.0\n\nv1.1.0 has 2 images, 1 more than v1.0.0: 1 added, 0 removed."
    )
    assert "\n- Note: 1 leak between splits accepted by a new waiver; see the leak report.\n" in text
    assert "\n| dog | 0 | 2 | +2 |\n" in text
    assert (
        f"\n- **new** near-duplicate: `{item.image[:12]}` in train and `{new.image[:12]}` in test, 4 of 128 bits "
        f"apart: as published\n" in text
    )


def test_no_waivers_are_said(build):
    assert "nothing was waived" in diff_markdown(diff_versions(build([]), build([])))


def test_names_from_outside_cannot_become_markup(album, build):
    evil = "a|b\n# <b>x</b> [y](z) `c` *d*"
    item = album.picture(1, [(0, BOX)], source=evil, metadata={"camera": evil})

    text = diff_markdown(diff_versions(build([], classes=(evil,)), build([item], classes=(evil,))))

    escaped = r"a\|b \# \<b\>x\</b\> \[y\](z) \`c\` \*d\*"
    assert text.count(f"| {escaped} | 0 | 1 | +1 |") == 3
    assert "<b>" not in text


def test_long_tables_are_cut_after_what_changed_most(album, build):
    names = tuple(f"class-{n}" for n in range(80))
    item = album.picture(1, [(70, BOX)] * 5)

    text = diff_markdown(diff_versions(build([], classes=names), build([item], classes=names)))

    assert "| class-70 | 0 | 5 | +5 |" in text
    assert text.count("| class-") == MOST_ROWS
    assert f"{80 - MOST_ROWS} more, which changed less." in text


def test_many_waivers_are_cut(album, build):
    waivers = tuple(
        Waiver("group", (f"{n:064x}", "f" * 64), ("train", "val"), "why") for n in range(MOST_ROWS + 3)
    )

    text = diff_markdown(diff_versions(build([]), build([], waivers=waivers)))

    assert text.count("group: ") == MOST_ROWS
    assert text.endswith("\n- 3 more\n")
