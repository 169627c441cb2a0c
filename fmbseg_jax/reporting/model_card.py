"""The card of a RUN that is put on a hub: what it is, words, figures, whose models it stands on, how to use it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fmbseg_jax.inference.embedder import Teacher
from fmbseg_jax.reporting.readings import HEAD, best_dense, by_reading
from fmbseg_jax.runs.checkpoint import Restored
from labelgen.core.files import read_json

_HEAD = """---
library_name: fmbseg-jax
pipeline_tag: image-segmentation
tags:
- semantic-segmentation
- open-vocabulary
- zero-shot
- jax
---

# A segmentation head by FMbSeg

It names every pixel of a photo by words. It was trained on {targets}, by *Annotation-Free Semantic Segmentation with
Vision Foundation Models* (arXiv 2403.09307). What is here is the head alone: the frozen models below are fetched from
their owners.
"""
_USE = """## Use

    from fmbseg_jax import Segmenter
    result = Segmenter.restore("hf://OWNER/NAME")("photo.jpg")
    result.overlay().save("overlay.jpg")

Other words need no training: `segmenter("photo.jpg", words=["cat", "sofa: sofa, couch"])`. Without that package,
`head.safetensors` and `head.json` are all that a label map takes, in ten lines of numpy (docs/export.md of
fmbseg-jax), and `head.stablehlo` is the head as a function for any JAX. Nothing here is a pickle.
"""


def evaluated(workdir: str) -> list[dict[str, Any]]:
    """What `evaluate` wrote into RUN/eval, split by split; none where it did not."""
    return [read_json(path, "evaluate again") for path in sorted(Path(workdir, "eval").glob("*.json"))]


def card(restored: Restored, teachers: Sequence[Teacher], figures: Iterable[Mapping[str, Any]]) -> str:
    """README.md of the folder, markdown with the hub's own fields in front; figures: of `evaluated`."""
    kinds = {"labels": "labels that frozen models made of photos and words", "truth": "the truth of its photos"}
    parts = [
        _HEAD.format(targets=kinds[restored.config.train.targets]),
        _words(restored),
        _figures(figures),
        _teachers(teachers),
        _training(restored),
        _USE,
    ]
    return "\n".join(part for part in parts if part)


def _words(restored: Restored) -> str:
    ontology = restored.ontology
    words: list[list[str]] = [[] for _ in ontology.names]
    for word, owner in zip(ontology.words, ontology.word_class, strict=True):
        words[owner].append(word)
    rows = [f"| {i} | {_cell(name)} | {_cell(', '.join(words[i]))} |" for i, name in enumerate(ontology.names)]
    return "\n".join([f"## {len(rows)} classes\n", "| index | class | words |", "|---|---|---|", *rows, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _figures(figures: Iterable[Mapping[str, Any]]) -> str:
    """mIoU of the head and of the best dense CLIP a split, with what it was measured on."""
    rows = []
    for result in figures:
        miou = {reading: scores["miou"] for reading, scores in by_reading(result["readings"]).items()}
        protocol, head = result["protocol"], miou.get(HEAD)
        dense = miou[best_dense(miou)] if any(reading.model != HEAD.model for reading in miou) else None
        what = f"{protocol['use']}; {protocol['words'].partition(':')[0]}; background: {protocol['background']}"
        rows.append(
            f"| {protocol['split']} | {protocol['photos']} | {_share(head)} | {_share(dense)} | {_cell(what)} |"
        )
    if not rows:
        return "## Figures\n\nNot measured against truth.\n"
    heads = [
        "| split | photos | mIoU of the head | mIoU of dense CLIP, the best variant | measured on |",
        "|---|---|---|---|---|",
    ]
    return "\n".join(["## Figures\n", *heads, *rows, ""])


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _teachers(teachers: Sequence[Teacher]) -> str:
    rows = [
        f"| {each.role} | {_cell(each.name)} | {each.licence or 'not known: look it up'} "
        f"| {each.source or 'not known'} | {each.sha256[:16] or 'not needed'} |"
        for each in teachers
    ]
    heads = ["| for | model | licence of its weights | from | sha256 |", "|---|---|---|---|---|"]
    said = "Labels were made by all of them; using the head takes the encoder, and CLIP's text tower for other words."
    return "\n".join(["## The frozen models\n", *heads, *rows, "", said, ""])


def _training(restored: Restored) -> str:
    head = json.dumps({name: restored.config.head[name] for name in sorted(restored.config.head)})
    return f"## Training\n\nStep {restored.step}, temperature {restored.temperature:.4g}, head `{head}`.\n"
