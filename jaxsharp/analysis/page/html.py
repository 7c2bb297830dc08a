"""The page around its content: styles, script, and a policy by which it loads nothing else."""

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

from jaxsharp.analysis import canvas, looks
from jaxsharp.analysis.page.content import Study, content

ASSETS = Path(__file__).with_name("assets")
SCRIPTS = ("text", "table", "axes", "plot", "runs", "page")  # in this order one script
DARK = -0.6  # how far colours are mixed with white on a dark page


def page_of(studies: Sequence[Study], title: str | None = None) -> str:
    """Return one HTML page, in ASCII, on some studies.

    Whatever a study holds is text there: it stands as JSON in which no character ends an element,
    and the script makes text nodes of it. The page has no address of another file, and its content
    security policy names the digests of its own script and styles, so that nothing else is loaded
    or run. Curves of many runs are thinned (`content`), so that 500 runs take less than 2 MB.

    Raises ValueError for no study, and for tables as `content` does.
    """
    if not studies:
        raise ValueError("a page needs at least one study")
    title = title or ", ".join(study.name for study in studies)
    script = "\n".join((ASSETS / f"{name}.js").read_text() for name in SCRIPTS)
    script = f'"use strict";\n(() => {{\n{script}}})();'
    style = f"{palette()}\n{(ASSETS / 'page.css').read_text()}"
    page = Template((ASSETS / "page.html").read_text()).substitute(
        title=html.escape(title),
        content=as_json({"title": title, **content(studies)}),
        **{"style": style, "style_digest": digest(style)},
        **{"script": script, "script_digest": digest(script)},
    )
    return page.encode("ascii", "xmlcharrefreplace").decode()


def as_json(value: Any) -> str:
    """JSON of ASCII without any character that means something to HTML."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def digest(text: str) -> str:
    """SHA-256 of a script or style, as a content security policy has it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def palette() -> str:
    """The colours of all figures as styles, lighter ones for a dark page."""
    light = ";".join(f"--c{i}:{color}" for i, color in enumerate(canvas.PALETTE))
    dark = ";".join(f"--c{i}:{looks.shaded(color, DARK)}" for i, color in enumerate(canvas.PALETTE))
    return f":root{{{light}}}\n@media screen and (prefers-color-scheme: dark){{:root{{{dark}}}}}"
