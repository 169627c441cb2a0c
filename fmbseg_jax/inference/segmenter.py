"""A trained RUN as a function of a photo and a list of words.

from fmbseg_jax import Segmenter
segmenter = Segmenter.restore("run")
segmenter("photo.jpg", words=["cat", "sofa: sofa, couch", "background: wall, floor"]).overlay().save("cat.jpg")
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import jax
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fmbseg_jax.inference.embedder import Embedder, Towers
from fmbseg_jax.inference.label_maps import Background, pixel_classes
from fmbseg_jax.inference.other_words import Asked
from fmbseg_jax.runs.checkpoint import Restored, restore_run
from fmbseg_jax.runs.shared_gpu import how_shared, leave_room_for_torch, settings
from labelgen.core.errors import PhotoError, UserError
from labelgen.core.ontology import BACKGROUND, Ontology, class_scores, parse_words, read_words
from labelgen.core.progress import say
from labelgen.formats.palette import overlay, palette
from labelgen.sources.decoding import read_photo, upright
from labelgen.sources.photos import Photo

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Words = Sequence[str] | Mapping[str, Sequence[str]] | str | Path
"""Lines of words, or {name: words}, or a file of lines."""
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
MAX_WORDS = 4096  # text embeddings that are remembered; the trained ones are not counted out


@dataclass(frozen=True, eq=False)
class Labels:
    """The class of each pixel of a photo, the photo itself not at hand."""

    names: tuple[str, ...]
    """C class names; one more, background, where a threshold was asked for and no class has this name."""
    label_map: NDArray[np.uint16]
    """[H, W] indices into `names`."""
    similarity: Floats
    """[h, w, C] cosine of each patch with the best word of each class; the patches cover the photo exactly. Where a
    class is new to the head, log-probabilities times the temperature."""
    temperature: float
    """Of the softmax that turns similarities into probabilities."""

    @cached_property
    def scores(self) -> dict[str, float]:
        """Class -> probability at the patch where it is most probable, in 0..1, the most certain class first."""
        logits = self.similarity.astype(np.float64) / self.temperature
        probabilities = np.exp(logits - logits.max(-1, keepdims=True))
        best = (probabilities / probabilities.sum(-1, keepdims=True)).max((0, 1))
        order = np.argsort(-best, kind="stable")
        return {self.names[i]: float(best[i]) for i in order}

    @cached_property
    def shares(self) -> dict[str, float]:
        """Class -> share of the photo's pixels, for the classes that have any, the largest first."""
        count = np.bincount(self.label_map.ravel(), minlength=len(self.names))
        order = np.argsort(-count, kind="stable")
        return {self.names[i]: float(count[i] / self.label_map.size) for i in order if count[i]}

    def mask(self) -> Image.Image:
        """Class indices as a palette picture; 16-bit grey beyond 256 classes."""
        if len(self.names) > 256:
            return Image.fromarray(self.label_map)
        image = Image.fromarray(self.label_map.astype(np.uint8), "P")
        image.putpalette(palette(256).tobytes())
        return image

    def save(self, path: str | Path) -> None:
        """The mask as PNG. UserError for another suffix: lossy formats change class indices."""
        if Path(path).suffix.lower() != ".png":
            raise UserError(f"{path}: a mask is saved as .png; overlay().save({Path(path).name!r}) is the picture")
        self.mask().save(path)


@dataclass(frozen=True, eq=False)
class Segmentation(Labels):
    """What a photo shows, pixel by pixel."""

    image: Pixels
    """uint8 [H, W, 3], upright."""

    def overlay(self) -> Image.Image:
        """The photo, tinted by its classes, RGB [H, W]."""
        return Image.fromarray(overlay(self.image, self.label_map, palette(max(256, len(self.names)))))


class Embedded(NamedTuple):
    """A photo's patches in CLIP's text space, unit rows float32 [h, w, E]."""

    z: Floats
    """By the head."""
    dense: Floats | None
    """By the RUN's dense map, where it has one: what words new to the head are found by."""


class Segmenter:
    """The head and the frozen encoders of a RUN, ready for any photo and any words.

    Photos are remembered, the last few, and words, each by itself: other words for the same photo encode no picture,
    other photos for the same words encode no text. Encoders load at the first photo (or the first new word). Not for
    several threads at a time.
    """

    def __init__(self, restored: Restored, weights_dir: str = "") -> None:
        self._restored, self._towers = restored, Towers(restored, weights_dir)
        self._embed = Embedder(restored, batch_size=1)
        self._photos: Recent[bytes, Embedded] = Recent()
        self._trained = dict(zip(restored.ontology.words, restored.prototypes, strict=True))
        self._words = dict(self._trained)

    @staticmethod
    def restore(workdir: str | Path, which: str = "best", weights_dir: str | Path = "") -> "Segmenter":
        """The segmenter of a RUN that fmbseg_jax.train wrote.

        which: "best" by the loss on held-out free labels, or "latest"; weights_dir: where the encoders' weight files
        are, if not where they were in training. UserError when there is nothing to restore.

        Torch loads at the first photo. On a GPU jax would have taken three quarters of its memory by then; so where jax
        has not started a backend, and the environment does not say how it is to allocate, this sets
        XLA_PYTHON_CLIENT_PREALLOCATE=false in it, for all of the process. Where jax has started, a line on stderr says
        what to set.
        """
        leave_room_for_torch()
        if not settings() and (late := how_shared(jax.local_devices())):
            say(late)
        return Segmenter(restore_run(workdir, which), str(weights_dir))

    @property
    def ontology(self) -> Ontology:
        """The classes and words it was trained with."""
        return self._restored.ontology

    @property
    def names(self) -> tuple[str, ...]:
        """The class names it was trained with, which it answers with unless asked for other words."""
        return self.ontology.names

    @property
    def step(self) -> int:
        """Of the training that it was restored from."""
        return self._restored.step

    @property
    def max_pixels(self) -> int:
        """Larger pictures in files are refused before they are decoded."""
        return int(self._restored.config.photos.max_pixels)

    def __call__(
        self,
        image: Image.Image | NDArray[np.uint8] | str | Path,
        words: Words | None = None,
        background_threshold: float = 0.0,
    ) -> Segmentation:
        """Names every pixel.

        image: a PIL picture, uint8 [H, W, 3] RGB or [H, W] grey, or a file, of any size; words: a class each, "name" or
        "name: word, word", or {name: its words}, or a file of such lines, or None for the words of the training;
        background_threshold: pixels whose best class is less probable than this are background. UserError for words or
        pictures that cannot be used.
        """
        pixels = as_pixels(image, self.max_pixels)
        ontology = self.ontology if words is None else as_ontology(words)
        size_hw = pixels.shape[0], pixels.shape[1]
        found = self.label(self.embeddings(pixels), size_hw, ontology, background_threshold)
        return Segmentation(found.names, found.label_map, found.similarity, found.temperature, pixels)

    def embeddings(self, image: Pixels) -> Embedded:
        """The photo's patches in CLIP's text space, of uint8 [H, W, 3]."""
        key = hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).data).digest()
        return self._photos.get(key, lambda: self._embedded(image))

    def _embedded(self, image: Pixels) -> Embedded:
        row = self._towers.features(Photo("", image))
        return Embedded(self._embed([row])[0], None if self._restored.dense_map is None else self._embed.dense(row))

    def label(
        self, photo: Embedded, size_hw: tuple[int, int], ontology: Ontology, background_threshold: float = 0.0
    ) -> Labels:
        """The labels of H x W pixels, any number of them, by the photo's patches (`embeddings`)."""
        temperature, dense = self._restored.temperature, photo.dense
        vocabulary = Asked(self._restored, ontology, self._prototypes(ontology))
        patches, prototypes, word_class = vocabulary(photo.z, dense)
        background = Background(background_threshold, temperature) if background_threshold else None
        label_map = pixel_classes(patches, prototypes, word_class, size_hw, None, background)
        names = _fold_background(ontology.names, label_map) if background else ontology.names
        similarity = class_scores(patches @ prototypes.T, word_class).astype(np.float32)
        return Labels(names, label_map, similarity, temperature)

    def _prototypes(self, ontology: Ontology) -> Floats:
        """float32 [K, E] unit rows; those of the trained words are the trained ones."""
        missing = tuple(word for word in ontology.words if word not in self._words)
        if missing:
            self._words |= zip(missing, self._towers.text(missing), strict=True)
        rows = [self._words[word] for word in ontology.words]
        if len(self._words) > MAX_WORDS:
            self._words = self._trained | dict(zip(ontology.words, rows, strict=True))
        return np.stack(rows)


class Recent(Generic[K, V]):
    """Values by key, the last few that were asked for."""

    def __init__(self, size: int = 8) -> None:
        self._size, self._values = size, OrderedDict[K, V]()

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value of a key, made when it is not among the last ones."""
        if key not in self._values:
            self._values[key] = make()
        self._values.move_to_end(key)
        if len(self._values) > self._size:
            self._values.popitem(last=False)
        return self._values[key]


def as_pixels(image: Image.Image | NDArray[np.uint8] | str | Path, max_pixels: int) -> Pixels:
    """uint8 [H, W, 3] RGB, upright, of a picture in any of these forms. UserError where it cannot be one."""
    try:
        if isinstance(image, (str, Path)):
            return read_photo(Path(image), max_pixels)
        if isinstance(image, Image.Image):
            return upright(image)
    except PhotoError as error:
        raise UserError(f"{image}: {error.reason}; {error.fix}") from None
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,)) or not array.size:
        raise UserError(
            f"image: {array.dtype} {list(array.shape)} is no picture; give uint8 [H, W, 3] RGB or [H, W] grey, a PIL "
            "image or a file"
        )
    return array if array.ndim == 3 else np.repeat(array[..., None], 3, axis=-1)


def as_ontology(words: Words) -> Ontology:
    """The classes of a list of lines, each "name" or "name: word, word", of a file of them, or of {name: its words}."""
    if isinstance(words, (str, Path)):
        return read_words(words)
    if isinstance(words, Mapping):
        if wrong := next((name for name in words if ":" in str(name) or "\uff1a" in str(name)), None):
            raise UserError(f"words: class name {wrong!r} has a colon, which ends a name; take another sign")
        words = [f"{name}: {each if isinstance(each, str) else ', '.join(each)}" for name, each in words.items()]
    return parse_words(words, "words")


def _fold_background(names: tuple[str, ...], label_map: NDArray[np.uint16]) -> tuple[str, ...]:
    """The class after the last one becomes the background among the words, in place, or is named so."""
    known = [i for i, name in enumerate(names) if name.casefold() == BACKGROUND]
    if not known:
        return (*names, BACKGROUND)
    label_map[label_map == len(names)] = known[0]
    return names
