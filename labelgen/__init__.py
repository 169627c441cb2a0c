"""Labels nobody drew: frozen CLIP, SAM and DINOv2 encode photos once, words label them as often as wanted.

What stands here is public, for notebooks and programs; the modules below are the product's own and may change.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labelgen.core.config import load_config
    from labelgen.core.errors import UserError
    from labelgen.core.ontology import Ontology, read_words
    from labelgen.data.dataset import Dataset
    from labelgen.data.records import EvidenceRow, FeatureRow, LabelRow, TruthRow
    from labelgen.data.staging import open_data
    from labelgen.labels.free_labels import LabelSettings, label_photo, label_stages
    from labelgen.labels.presence import Calibration, detect
    from labelgen.labels.scores import confusion, scores

_HOMES = {
    "core.config": ("load_config",),
    "core.errors": ("UserError",),
    "core.ontology": ("Ontology", "read_words"),
    "data.dataset": ("Dataset",),
    "data.records": ("EvidenceRow", "FeatureRow", "LabelRow", "TruthRow"),
    "data.staging": ("open_data",),
    "labels.free_labels": ("LabelSettings", "label_photo", "label_stages"),
    "labels.presence": ("Calibration", "detect"),
    "labels.scores": ("confusion", "scores"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
__all__ = [
    "Calibration",
    "Dataset",
    "EvidenceRow",
    "FeatureRow",
    "LabelRow",
    "LabelSettings",
    "Ontology",
    "TruthRow",
    "UserError",
    "confusion",
    "detect",
    "label_photo",
    "label_stages",
    "load_config",
    "open_data",
    "read_words",
    "scores",
]


def __getattr__(name: str) -> Any:
    """The public names, imported when asked for: importing the package loads nothing and changes nothing."""
    if name in _HOME:
        return getattr(import_module(f"labelgen.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
