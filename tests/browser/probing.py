"""What a page says about itself once it is drawn."""

import json
import re
import subprocess
from typing import Any

PROBE = """<script>
addEventListener("load", () => setTimeout(() => {
  const all = (selector) => [...document.querySelectorAll(selector)];
  document.title = JSON.stringify({
    pictures: all("img").length,
    broken: all("img").filter((img) => !(img.complete && img.naturalWidth > 0)).length,
    wider: document.documentElement.scrollWidth - innerWidth,
    cut: all(".scroll, tbody th").filter((box) => box.scrollWidth > box.clientWidth).length,
    loose: all("table").filter((table) => !table.closest(".scroll")).length,
    requests: performance.getEntriesByType("resource").map((entry) => entry.name)
      .filter((name) => !name.startsWith("data:")),
  });
}, 50));
</script></body>"""


def probed(html: str) -> str:
    """The page with a script that puts what it finds into the title."""
    return html.replace("style-src", "script-src 'unsafe-inline'; style-src").replace("</body>", PROBE)


def probe_of(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Of a dumped page: pictures, how many are broken, pixels that stick out, tables or their headings wider
    than their room, tables without a box that scrolls, and what was asked of the network.
    """
    found = re.search(r"<title>(\{.*?\})</title>", result.stdout)
    assert found is not None, result.stderr
    return json.loads(found[1])
