"""Where the project and the real photos are."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
ASSETS = Path(os.environ.get("FMBSEG_ASSETS", ROOT.parent / "shared/assets"))
"""Real photos with official truth; not part of the project."""
