"""The report's page: one HTML file with style, script and figures inside; photos are files beside it.

The parts lie in fmbseg_jax/reporting/page/. What comes from outside (names of classes and photos, reasons of failures)
goes into the page as JSON alone, and the page writes it as text, never as HTML.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PARTS = Path(__file__).parent / "reporting/page"
SCRIPTS = ("dom.js", "charts.js", "maps.js", "photos.js", "detail.js", "main.js")


def page(fields: Mapping[str, Any]) -> str:
    """The whole index.html; fields are what its scripts read."""
    parts = {
        "STYLE": (PARTS / "style.css").read_text(encoding="utf-8"),
        "SCRIPT": "\n".join((PARTS / name).read_text(encoding="utf-8") for name in SCRIPTS),
        "DATA": embedded(fields),
    }
    html = (PARTS / "index.html").read_text(encoding="utf-8")
    for name, text in parts.items():
        before, mark, after = html.partition(f"{{{{{name}}}}}")
        html = before + text + after if mark else html
    return html


def embedded(fields: Mapping[str, Any]) -> str:
    """JSON that can stand in a script element: no character in it ends the element or opens a comment."""
    text = json.dumps(fields, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
