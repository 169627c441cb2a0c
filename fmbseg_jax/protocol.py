"""What a figure means, in words and numbers: classes, background, pixels, windows; to lay it beside others' figures."""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from fmbseg_jax.runs.checkpoint import Restored
from labelgen.core.errors import UserError
from labelgen.core.ontology import BACKGROUND, Ontology
from labelgen.data.dataset import Dataset
from labelgen.labels.scores import IGNORE


def class_names(ontology: Ontology, threshold: float) -> tuple[str, ...]:
    """The classes that are counted: those of the words and, where a threshold makes it, the background after them.

    UserError when the words have a background of their own.
    """
    if not threshold:
        return ontology.names
    if any(ontology.roles):
        raise UserError(
            f"eval.background_threshold = {threshold}, but the words name a background themselves; choose one of the "
            "two: set the threshold to 0, or take the line `background: ...` out of the file of words"
        )
    return *ontology.names, BACKGROUND


def protocol(
    data: Dataset, split: str, restored: Restored, names: Sequence[str], words: str, config: ConfigDict
) -> dict[str, Any]:
    """The protocol of a split's figures, JSON-able. names: the classes counted; words: where they were asked from."""
    trained, encoded = restored.config.train, data.info["config"]
    return {
        "split": split,
        "photos": data.count(split),
        "use": "own photos" if split == trained.split else "unseen photos",
        "labels": restored.config.labels.name,
        "targets": trained.targets,
        "checkpoint": f"step {restored.step}, the lowest loss on held-out training photos",
        "classes": len(names),
        "background": _background(names, config),
        "words": words,
        "truth": _truth(data, split, config),
        "head sees": _head_views(encoded["encoder"]),
        "dense CLIP sees": _clip_views(encoded["clip"]),
        "pixels": "patch logits (max over a class's words), bilinear to the photo's full size, argmax",
        "present classes": {"from": "crops, thresholds of the config, the same for all photos", **config.presence},
        "refined": {"vote": "majority in each SAM mask, small over large", "min_iou": config.eval.refine_min_iou},
    }


def summary(fields: dict[str, Any]) -> str:
    """The protocol in one line, for under the table."""
    return (
        f"protocol: {fields['classes']} classes, all of them asked unless a row says present; background: "
        f"{fields['background']}; {fields['use']}; truth: {fields['truth']}; head sees {fields['head sees']}; "
        f"dense CLIP sees {fields['dense CLIP sees']}"
    )


def _background(names: Sequence[str], config: ConfigDict) -> str:
    threshold = config.eval.background_threshold
    if threshold:
        return f"best class below {threshold} of the softmax; the threshold is the config's, for all photos"
    return "by words, a class like any other" if BACKGROUND in names else "none"


def _truth(data: Dataset, split: str, config: ConfigDict) -> str:
    rules = config.eval.truth.to_dict()
    ignored = [name for name, target in rules.items() if target == IGNORE]
    merged = [f"{name} counts as {target}" for name, target in rules.items() if target != IGNORE]
    classes = data.truth_classes(split)
    said = [f"{len(classes)} classes of the source" if classes else "classes of the words", "full size"]
    return ", ".join([*said, "not annotated pixels left out", *(f"{name} left out" for name in ignored), *merged])


def _head_views(encoder: dict[str, Any]) -> str:
    high = encoder["height_px"] or encoder["size_px"]
    fitted = f"the photo fitted into {encoder['size_px']} x {high} px"
    if not encoder["window_px"]:
        return f"{fitted}, one pass"
    return f"{fitted}, windows of {encoder['window_px']} px every {encoder['stride_px']} px"


def _clip_views(clip: dict[str, Any]) -> str:
    return f"short side {clip['short_side_px']} px, windows of {clip['window_px']} px every {clip['stride_px']} px"
