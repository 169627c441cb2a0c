"""Label maps as FiftyOne's fields: a Segmentation, and samples of a folder of photos.

FiftyOne draws value 0 of a mask as nothing and leaves it out of its evaluation. So a pixel is the index of its class
plus one, 0 is unlabelled, and `mask_targets` names the values; `--format=fiftyone` writes the same as files.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from fmbseg_jax.bridges.answers import Answer, Labeller, answer, package
from fmbseg_jax.inference.segmenter import Labels
from labelgen.core.errors import PhotoError
from labelgen.core.progress import Progress, say
from labelgen.formats.fiftyone import mask_targets, mask_values
from labelgen.sources.folders import folder_source

if TYPE_CHECKING:
    import fiftyone

__all__ = ["mask_targets", "samples", "to_fiftyone"]


def to_fiftyone(result: Labels) -> "fiftyone.Segmentation":
    """fo.Segmentation of a result: mask uint8 [H, W], uint16 beyond 254 classes, index of the class plus one.

    UserError where FiftyOne is not installed.
    """
    return _segmentation(answer(result))


def _segmentation(found: Answer) -> "fiftyone.Segmentation":
    field: Any = package("fiftyone", "fiftyone").Segmentation(mask=mask_values(found.label_map, len(found.names)))
    return field


def samples(
    photos: str | Path, labeller: Labeller, field: str = "fmbseg", max_pixels: int = 100_000_000
) -> Iterator["fiftyone.Sample"]:
    """A fo.Sample of each photo of a folder, at any depth, with a Segmentation in `field`; for Dataset.add_samples.

    labeller: fmbseg_jax.bridges.answers.open_labeller's. Photos that cannot be read, or answered, are named and left
    out; the last line counts them. UserError where FiftyOne is not installed, and for no folder of photos.
    """
    fo = package("fiftyone", "fiftyone")
    source = folder_source(Path(photos), max_pixels)
    names: Sequence[str] = source.list()
    progress, left = Progress(len(names), "photos", "samples"), 0
    for name in names:
        file = source.file(name)
        try:
            found = labeller(file, Image.fromarray(source.load(name).image))
        except (PhotoError, ValueError) as error:
            left += 1
            progress.note(f"{file}: {error}")
        else:
            yield fo.Sample(filepath=str((Path(photos) / file).absolute()), **{field: _segmentation(found)})
        progress.add()
    progress.close()
    if left:
        say(f"{left} of {len(names)} photos have no sample")
