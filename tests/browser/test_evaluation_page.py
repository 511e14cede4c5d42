"""The page of two models in a real Chromium: it draws every picture, logs nothing and asks the network for nothing."""

import pytest

from retrain.evaluation.report.page import ReportPage
from tests.browser.probing import probe_of, probed
from tests.unit.evaluation.report.test_page import pixels, result, served_by_class


@pytest.fixture(scope="module")
def html() -> str:
    return ReportPage(result("new.pt", 0.9, 1), result("old.pt", 0.5, 0), resamples=200).html(pixels)


@pytest.mark.parametrize("width", [500, 1200])
def test_every_picture_is_drawn_nothing_is_fetched_and_nothing_sticks_out(chromium, html, tmp_path, width):
    page = tmp_path / "evaluation.html"
    page.write_text(probed(html))

    drawn = probe_of(chromium(page, "--dump-dom", f"--window-size={width},900", "--virtual-time-budget=2000"))

    # Eight curves, the confusion matrix and the types of error, and crops.
    assert drawn["pictures"] > 10 + 4
    assert (drawn["broken"], drawn["wider"], drawn["requests"]) == (0, 0, [])


@pytest.mark.parametrize("before", [None, result("old.pt", 0.5, 0)])
def test_tables_are_whole_on_a_desk_s_screen_and_scroll_on_a_narrower_one(chromium, tmp_path, before):
    page = tmp_path / "evaluation.html"
    page.write_text(
        probed(ReportPage(served_by_class(result("new.pt", 0.9, 1)), before, resamples=200).html(None))
    )

    wide, narrow = (
        probe_of(chromium(page, "--dump-dom", f"--window-size={width},900", "--virtual-time-budget=2000"))
        for width in (1200, 500)
    )

    assert (wide["cut"], wide["wider"], wide["loose"]) == (0, 0, 0)
    assert narrow["cut"] > 0
    assert narrow["wider"] == 0


def test_nothing_is_said_on_the_console(chromium, html, tmp_path):
    page = tmp_path / "evaluation.html"
    page.write_text(html)

    shown = chromium(page, "--dump-dom")

    assert "new.pt" in shown.stdout
    assert [line for line in shown.stderr.splitlines() if "CONSOLE" in line] == []
