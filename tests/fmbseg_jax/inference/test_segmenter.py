"""A RUN as a Python function: pictures in any form, words of any kind, nothing encoded twice, answers that add up."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fmbseg_jax.inference import segmenter as segmenter_module
from fmbseg_jax.inference.embedder import Towers
from fmbseg_jax.inference.other_words import Asked
from fmbseg_jax.inference.segmenter import Recent, Segmentation, Segmenter, as_ontology
from fmbseg_jax.runs.checkpoint import restore_run
from labelgen.core.errors import UserError
from labelgen.core.ontology import parse_words
from labelgen.formats.palette import palette
from labelgen.models import clip as clip_module
from labelgen.models.clip import load_clip
from labelgen.models.trunks import load_timm
from tests.worlds import tiny_models, tiny_run
from tests.worlds.reference import pixel_logits
from tests.worlds.tiny_run import KERNEL, WORDS, picture


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.write(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def segmenter(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    return Segmenter.restore(tiny_run.write(tmp_path_factory.mktemp("run"), weights))


def logits(weights: Path, image: Image.Image, words: tuple[str, ...], word_class: tuple[int, ...]) -> np.ndarray:
    """float64 cosines [C, H, W] of every pixel, from the models themselves."""
    config = tiny_models.config(weights)
    encoder = load_timm(config.encoder, config.weights_dir, config.device, config.dtype)
    clip = load_clip(config.clip, config.weights_dir, config.device, config.dtype)
    z = encoder.features(np.asarray(image)).astype(np.float64) @ KERNEL
    z /= np.linalg.norm(z, axis=-1, keepdims=True)
    prototypes = clip.text(words, config.labels.templates)
    return pixel_logits(z, prototypes, word_class, (image.height, image.width))


def test_every_pixel_has_the_class_whose_words_fit_best(weights: Path, segmenter: Segmenter) -> None:
    image = picture(40, 53)
    result = segmenter(image)
    wanted = logits(weights, image, WORDS.words, WORDS.word_class).argmax(0)
    assert 0.02 < wanted.mean() < 0.98
    assert result.names == segmenter.names == ("ball", "box")
    assert result.label_map.shape == (40, 53)
    assert (result.label_map != wanted).mean() < 0.02  # features are kept in bfloat16


def test_other_words_as_a_list_and_as_a_file(weights: Path, segmenter: Segmenter, tmp_path: Path) -> None:
    image, lines = picture(48, 40, 5), ["lid: ll", "loo: boo, ooo", "box"]
    (tmp_path / "words.txt").write_text("\n".join(lines))
    result = segmenter(image, words=lines)
    wanted = logits(weights, image, ("ll", "boo", "ooo", "box"), (0, 1, 1, 2)).argmax(0)
    assert result.names == ("lid", "loo", "box")
    assert (result.label_map != wanted).mean() < 0.02
    assert np.array_equal(segmenter(image, words=tmp_path / "words.txt").label_map, result.label_map)


def test_words_new_to_the_head_are_found_by_the_dense_map(weights: Path, tmp_path: Path) -> None:
    """Nothing but new words: a RUN whose dense map is its own head answers as the head does."""
    restored = restore_run(tiny_run.write(tmp_path, weights))
    dense = np.concatenate([KERNEL, np.zeros((1, KERNEL.shape[1]))]).astype(np.float32)
    taught = replace(restored, prototypes=-restored.prototypes, dense_map=dense)  # all other words are far from these
    image, lines = picture(48, 40, 5), ["lid: ll", "loo: boo, ooo"]
    words = parse_words(lines, "words")
    assert Asked(taught, words, Towers(restored).text(words.words)).new == ("lid", "loo")
    result = Segmenter(taught)(image, words=lines)
    wanted = logits(weights, image, ("ll", "boo", "ooo"), (0, 1, 1)).argmax(0)
    assert 0.02 < wanted.mean() < 0.98 and (result.label_map != wanted).mean() < 0.02


def test_a_picture_may_come_as_a_file_an_array_or_an_image(segmenter: Segmenter, tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    picture(20, 50).save(tmp_path / "a.png", exif=turned)
    upright = np.asarray(picture(20, 50).rotate(-90, expand=True))
    wanted = segmenter(upright)
    assert wanted.image.shape == (50, 20, 3)
    for form in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.open(tmp_path / "a.png")):
        assert np.array_equal(segmenter(form).label_map, wanted.label_map)
    grey = np.asarray(picture(30, 30).convert("L"))
    assert np.array_equal(segmenter(grey).label_map, segmenter(np.stack([grey] * 3, -1)).label_map)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (700, 3)])
def test_photos_of_any_size(size: tuple[int, int], segmenter: Segmenter) -> None:
    result = segmenter(picture(*size))
    assert result.label_map.shape == size and result.overlay().size == size[::-1]


def test_nothing_is_encoded_twice(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    features, text = Towers.features, Towers.text
    monkeypatch.setattr(Towers, "features", lambda self, photo: (calls.append("photo"), features(self, photo))[1])
    monkeypatch.setattr(Towers, "text", lambda self, words: (calls.append(tuple(words)), text(self, words))[1])
    one, other = picture(32, 32, 21), picture(32, 32, 22)
    segmenter(one, words=["lo"])
    assert calls == ["photo", ("lo",)]
    segmenter(one, words=["bo", "box", "lo"])
    segmenter(one.copy(), words=["lo"])
    assert calls[2:] == [("bo",)]
    segmenter(other, words=["lo"])
    assert calls[3:] == ["photo"]


def test_words_of_long_ago_are_forgotten_and_the_trained_ones_are_not(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = Segmenter(segmenter._restored)
    monkeypatch.setattr(segmenter_module, "MAX_WORDS", 5)
    for words in (["bo"], ["lo"], ["la", "lo"]):
        fresh(picture(8, 8), words)
    assert sorted(fresh._words) == ["ball", "box", "crate", "la", "lo"]


def test_the_trained_words_need_no_text_tower(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = Segmenter(segmenter._restored)
    monkeypatch.setattr(clip_module, "load_clip", None)
    assert fresh(picture(20, 20)).names == ("ball", "box")


def test_what_was_asked_for_long_ago_is_forgotten() -> None:
    made: list[str] = []
    recent: Recent[str, np.ndarray] = Recent(2)
    for key in "abacab":  # b goes when c comes, and c when b comes back
        recent.get(key, lambda key=key: (made.append(key), np.zeros(1, np.float32))[1])
    assert "".join(made) == "abcb"


def segmentation() -> Segmentation:
    """Two patches side by side over 2 x 4 pixels."""
    similarity = np.log(np.array([[[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]]])) * 0.1
    label_map = np.array([[1, 1, 1, 0], [1, 1, 1, 0]], np.uint16)
    image = np.full((2, 4, 3), 200, np.uint8)
    return Segmentation(("cat", "sofa", "wall"), label_map, similarity.astype(np.float32), 0.1, image)


def test_scores_are_the_probabilities_at_the_best_patch() -> None:
    scores = segmentation().scores
    assert list(scores) == ["cat", "sofa", "wall"]
    assert np.allclose(list(scores.values()), [0.6, 0.5, 0.3], atol=1e-6)


def test_shares_count_pixels_of_the_classes_that_are_there() -> None:
    assert segmentation().shares == {"sofa": 0.75, "cat": 0.25}


def test_a_saved_mask_reads_back(tmp_path: Path) -> None:
    segmentation().save(tmp_path / "mask.png")
    mask = Image.open(tmp_path / "mask.png")
    assert mask.mode == "P" and mask.getpalette()[:9] == palette(3).ravel().tolist()
    assert np.array_equal(np.asarray(mask), segmentation().label_map)
    tinted = np.asarray(segmentation().overlay())
    assert np.array_equal(tinted[0, 0], (200 * 0.45 + palette(3)[1] * 0.55).astype(np.uint8))


def test_uncertain_pixels_become_background(segmenter: Segmenter) -> None:
    image = picture(40, 53)
    plain, certain = segmenter(image), segmenter(image, background_threshold=0.6)
    is_background = certain.label_map == 2
    assert certain.names == ("ball", "box", "background") and 0 < is_background.mean() < 1
    assert np.array_equal(certain.label_map[~is_background], plain.label_map[~is_background])
    assert certain.shares["background"] == is_background.mean()


def test_uncertain_pixels_join_the_background_that_has_words(segmenter: Segmenter) -> None:
    image, words = picture(40, 53), ["background: ll", "ball", "box"]
    plain, certain = segmenter(image, words), segmenter(image, words, background_threshold=0.99)
    assert certain.names == ("background", "ball", "box")
    changed = certain.label_map != plain.label_map
    assert changed.any() and not certain.label_map[changed].any()


@pytest.mark.parametrize(
    ("image", "words", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), None, r"float32 \[4, 4, 3\] is no picture; give uint8"),
        (np.zeros((4, 4, 4), np.uint8), None, r"uint8 \[4, 4, 4\] is no picture"),
        (np.zeros((0, 4, 3), np.uint8), None, "is no picture"),
        (picture(4, 4), ["cat", "cat"], "words:2: class 'cat' is named twice"),
        (picture(4, 4), [], "words: no class in it"),
        (picture(4, 4), "nowhere.txt", "nowhere.txt: no such file of words"),
        (Image.fromarray(np.zeros((4, 4), np.float32)), None, "floating-point pixels; convert it"),
        (__file__, None, "test_segmenter.py: not a picture in a format that can be read"),
        ("nowhere.jpg", None, "nowhere.jpg"),
    ],
)
def test_what_the_caller_must_fix(image: Any, words: Any, message: str, segmenter: Segmenter) -> None:
    with pytest.raises(UserError, match=message):
        segmenter(image, words)


def test_a_mask_is_not_saved_in_a_lossy_format(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a mask is saved as .png"):
        segmentation().save(tmp_path / "mask.jpg")


def test_words_by_class() -> None:
    by_class = as_ontology({"cat": ["kitty", "tom cat"], "background": ("wall",)})
    assert by_class == as_ontology(["cat: kitty, tom cat", "background: wall"])
    with pytest.raises(UserError, match="words:1: empty word for class 'cat'"):
        as_ontology({"cat": []})
    assert as_ontology({"cat": "kitty, tom cat", "dog": "dog"}) == as_ontology(["cat: kitty, tom cat", "dog"])
    with pytest.raises(UserError, match="words: class name 'a:b' has a colon"):
        as_ontology({"a:b": ["cat"]})
