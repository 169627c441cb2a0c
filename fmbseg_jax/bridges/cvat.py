"""A RUN, or the labels of a DATA, as an auto-annotation function of CVAT's SDK.

    cvat-cli task auto-annotate TASK --function-module fmbseg_jax.bridges.cvat -p run=str:RUN

CVAT matches labels by name; the attribute `confidence` of each goes with them where the task has it (else, with
--allow-unmatched-labels, it is dropped). A class of a picture is one mask; with --conv-mask-to-poly the regions of all
classes are polygons, laid one on the other by their z-order.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from PIL import Image

from fmbseg_jax.bridges.answers import Answer, Labeller, colours, open_labeller, package
from labelgen.core.ontology import UNLABELLED
from labelgen.formats.regions import outlines

CONFIDENCE = "confidence"
INSTALL = "cvat-sdk cvat-cli"


def create(
    run: str = "",
    data: str = "",
    labels: str = "default",
    words: str = "",
    background_threshold: float = 0.0,
    weights_dir: str = "",
) -> "Function":
    """What cvat-cli calls, each argument a -p NAME=str:VALUE. UserError where one of them is wrong."""
    return Function(open_labeller(run, data, labels, words, background_threshold, weights_dir))


class Function:
    """cvat_sdk.auto_annotation.DetectionFunction of a labeller."""

    def __init__(self, labeller: Labeller) -> None:
        """UserError where CVAT's SDK is not installed."""
        self._sdk = package("cvat_sdk.auto_annotation", INSTALL)
        self._encode = package("cvat_sdk.masks", INSTALL).encode_mask
        self._attribute = package("cvat_sdk.models", INSTALL).AttributeValRequest
        self._labeller = labeller
        self._ids = {name: i for i, name in enumerate(label_names(labeller))}

    @property
    def spec(self) -> Any:
        """The DetectionFunctionSpec: a label a class, by its name."""
        confidence = [self._sdk.text_attribute_spec(CONFIDENCE, 0)]
        return self._sdk.DetectionFunctionSpec(
            labels=[self._sdk.label_spec(name, i, attributes=confidence) for name, i in self._ids.items()]
        )

    def detect(self, context: Any, image: Image.Image) -> list[Any]:
        """The shapes of a picture that are as sure as `context.conf_threshold`, if it is one."""
        found = self._labeller(context.frame_name, image)
        at_least = context.conf_threshold or 0.0
        if context.conv_mask_to_poly:
            return list(self._polygons(found, at_least))
        return [
            self._sdk.mask(self._ids[piece.name], self._encode(piece.mask), attributes=self._sure(piece.confidence))
            for piece in found.pieces(at_least)
        ]

    def _polygons(self, found: Answer, at_least: float) -> Iterator[Any]:
        """All regions in the order to paint them; what is not sure enough is painted as unlabelled, where it shows."""
        kept = found.label_map.copy()
        for index, confidence in found.confidence.items():
            kept[found.label_map == index] = index if confidence >= at_least else -1
        for z_order, region in enumerate(outlines(kept).regions):
            name = found.names[region.value] if region.value >= 0 else UNLABELLED
            if name in self._ids:
                sure = self._sure(found.confidence[region.value]) if region.value >= 0 else []
                points = region.ring_xy.ravel().astype(float).tolist()
                yield self._sdk.polygon(self._ids[name], points, attributes=sure, z_order=z_order)

    def _sure(self, confidence: float) -> list[Any]:
        return [self._attribute(spec_id=0, value=f"{confidence:.3f}")]


def label_names(labeller: Labeller) -> tuple[str, ...]:
    """The names of CVAT's labels: the classes, and one for unlabelled pixels in the hole of a polygon."""
    return (*labeller.names, UNLABELLED)


def label_list(labeller: Labeller) -> list[dict[str, Any]]:
    """What `cvat-cli task create --labels` takes, and the tab *Raw* of CVAT's page of labels."""
    text = {"name": CONFIDENCE, "input_type": "text", "mutable": False, "values": [], "default_value": ""}
    return [
        {"name": name, "color": colour, "attributes": [text]}
        for name, colour in zip(label_names(labeller), [*colours(labeller.names), "#ffffff"], strict=True)
    ]


def function_file(arguments: Mapping[str, Any]) -> str:
    """The text of a file for cvat-cli's --function-file; arguments: of `create`."""
    return (
        '"""For cvat-cli task auto-annotate TASK --function-file; -p NAME=str:VALUE changes an argument."""\n\n'
        "from fmbseg_jax.bridges import cvat\n\n"
        f"ARGUMENTS = {dict(arguments)!r}\n\n\n"
        "def create(**given):\n"
        "    return cvat.create(**{**ARGUMENTS, **given})\n"
    )
