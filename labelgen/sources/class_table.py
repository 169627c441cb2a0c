"""The class table beside a folder of masks: classes.json, as labelgen.export and fmbseg_jax.predict write it.

Masks with a table have their classes by name, whatever the file of words says: values are those of the table.
"""

from collections.abc import Mapping
from pathlib import Path

from labelgen.core.errors import UserError
from labelgen.core.files import read_json
from labelgen.sources.folders import TableTruth

FILE = "classes.json"
_NOT_ANNOTATED_16 = 65535


def table_of(masks: Path) -> Path | None:
    """The table of a folder of masks: in it, else beside it; None where there is none."""
    places = (masks / FILE, masks.parent / FILE)
    return next((path for path in places if path.is_file()), None)


def read_names(path: Path) -> Mapping[int, str]:
    """Value -> class name, values ascending. UserError where the file is none, or gives a value or a name twice."""
    fix = "export the labels again, or take it away where the values are lines of the words"
    fields = read_json(path, fix)
    try:
        values = {name: int(field["index"]) for name, field in fields.items()}
    except (TypeError, KeyError, ValueError):
        raise UserError(f"{path}: not name -> {{index: …}}; {fix}") from None
    names = {value: name for name, value in sorted(values.items(), key=lambda item: item[1])}
    if len(names) < len(values) or not names or min(names) < 0:
        raise UserError(f"{path}: gives no class an index, two the same one, or one below 0; {fix}")
    return names


def table_truth(path: Path, ignore_index: int) -> TableTruth:
    """What masks mean by the table; `ignore_index`, and 65535, are not annotated unless they are a class's."""
    names = read_names(path)
    return TableTruth(
        str(path), tuple(names.values()), tuple(names), frozenset({ignore_index, _NOT_ANNOTATED_16}) - names.keys()
    )
