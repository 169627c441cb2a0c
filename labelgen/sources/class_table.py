"""The class table beside a folder of masks: classes.json, as labelgen.export and fmbseg_jax.predict write it.

Masks with a table have their classes by name, whatever the file of words says: values are those of the table.
"""

from pathlib import Path

from labelgen.sources.folders import TableTruth
from labelgen.sources.legends import find_legend, is_foreign

_NOT_ANNOTATED_16 = 65535


def class_table(masks: Path, ignore_index: int) -> TableTruth | None:
    """What masks mean by the table in their folder, or beside it; None where there is none.

    `ignore_index`, and 65535, are not annotated unless they are a class's. UserError for a table that is none.
    """
    legend = find_legend(masks)
    if legend is None or is_foreign(legend):
        return None
    names = dict(sorted(zip(legend.values, legend.names, strict=True)))
    unlabelled = frozenset({ignore_index, _NOT_ANNOTATED_16}) - names.keys()
    return TableTruth(legend.where, tuple(names.values()), tuple(names), unlabelled)
