"""The report in a real Chromium: it draws every picture, logs nothing and asks the network for nothing."""

import runpy
from pathlib import Path

import pytest

from retrain.monitoring.page import render_html
from tests.browser.probing import probe_of, probed

EXAMPLE = Path(__file__).parents[1] / "unit" / "monitoring" / "example_report.py"


@pytest.fixture(scope="module")
def html() -> str:
    return render_html(runpy.run_path(str(EXAMPLE))["example_report"]())


def test_the_page_opens_from_a_file_with_nothing_on_the_console(chromium, html, tmp_path):
    page = tmp_path / "report.html"
    page.write_text(html)

    result = chromium(page, "--dump-dom")

    assert "v2 replaced v1" in result.stdout
    assert [line for line in result.stderr.splitlines() if "CONSOLE" in line] == []


def test_the_console_check_notices_a_page_that_reaches_out(chromium, html, tmp_path):
    page = tmp_path / "report.html"
    page.write_text(html.replace("</main>", '<img src="http://127.0.0.1:9/x.png"></main>'))

    result = chromium(page, "--dump-dom")

    assert any("CONSOLE" in line and "Content Security Policy" in line for line in result.stderr.splitlines())


@pytest.mark.parametrize("width", [500, 1200])
def test_every_picture_is_drawn_nothing_is_fetched_and_nothing_sticks_out(chromium, html, tmp_path, width):
    page = tmp_path / "report.html"
    page.write_text(probed(html))

    result = chromium(page, "--dump-dom", f"--window-size={width},900", "--virtual-time-budget=2000")

    drawn = probe_of(result)
    assert (drawn["pictures"], drawn["broken"], drawn["wider"], drawn["requests"]) == (21, 0, 0, [])


def test_the_frames_show_their_picture_in_both_panels(chromium, html, tmp_path):
    from PIL import Image

    page, target = tmp_path / "report.html", tmp_path / "shot.png"
    marked = html.replace("</style>", "body > header, section:not(#frames) { display: none } </style>")
    page.write_text(marked)

    chromium(page, "--window-size=1200,700", f"--screenshot={target}")

    shot = Image.open(target).convert("RGB")
    light = [max(shot.getpixel((x, 420))) for x in (150, 400)]
    assert light == [pytest.approx(60, abs=40)] * 2, (
        "both panels hold the dark frame, not the page's light paper"
    )
