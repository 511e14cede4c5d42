"""The report in a real Chromium: it draws every picture, logs nothing and asks the network for nothing."""

import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

from retrain.monitoring.page import render_html

EXAMPLE = Path(__file__).parents[1] / "unit" / "monitoring" / "example_report.py"
QUIET = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-component-update", "--disable-background-networking", "--disable-sync",
    "--hide-scrollbars", "--disable-dev-shm-usage",
]  # fmt: skip
PROBE = """<script>
addEventListener("load", () => setTimeout(() => {
  const all = (selector) => [...document.querySelectorAll(selector)];
  document.title = JSON.stringify({
    pictures: all("img").length,
    broken: all("img").filter((img) => !(img.complete && img.naturalWidth > 0)).length,
    wider: document.documentElement.scrollWidth - innerWidth,
    requests: performance.getEntriesByType("resource").map((entry) => entry.name)
      .filter((name) => !name.startsWith("data:")),
  });
}, 50));
</script></body>"""


@pytest.fixture(scope="module")
def html() -> str:
    return render_html(runpy.run_path(str(EXAMPLE))["example_report"]())


@pytest.fixture
def chromium(tmp_path):
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("Chromium is not installed; on Debian: apt-get install chromium.")

    def run(page: Path, *options: str) -> subprocess.CompletedProcess[str]:
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        command = [program, *QUIET, profile, "--enable-logging=stderr", *options, page.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)

    return run


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
    probed = html.replace("style-src", "script-src 'unsafe-inline'; style-src").replace("</body>", PROBE)
    page.write_text(probed)

    result = chromium(page, "--dump-dom", f"--window-size={width},900", "--virtual-time-budget=2000")

    found = re.search(r"<title>(\{.*?\})</title>", result.stdout)
    assert found is not None
    assert found[1] == '{"pictures":21,"broken":0,"wider":0,"requests":[]}'


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
