"""The Python examples of a page of docs/, fenced with ```python."""

import re

from tests.worlds.paths import ROOT


def example(page: str, having: str) -> str:
    """The one block of docs/PAGE that has this text."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    (found,) = (block for block in blocks if having in block)
    return str(found)
