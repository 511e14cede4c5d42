"""Templates of pages that need no network, no script and no other file."""

from pathlib import Path

import jinja2

SHARED = Path(__file__).parent / "templates"


def page_environment(templates: Path) -> jinja2.Environment:
    """For templates in a folder, which may extend `base.html.j2` and use its style.

    Everything that came from outside is escaped, and a name that a template misspells is an error.
    """
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([templates, SHARED]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
