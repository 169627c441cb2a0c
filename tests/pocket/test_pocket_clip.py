"""The pocket CLIP: its captions, its vocabulary, its loss, and the weights that ship."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from labelgen.models.clip import ClipEncoder, load_clip
from pocket import captions, pairs, train_clip
from pocket.scenes import CLASSES, THINGS, WORDS, draw

WEIGHTS = Path(train_clip.__file__).parent / "weights"
TEMPLATES = ("a photo of a {}.", "a photo of the {}.", "there is a {} in the scene.")
CLASS_OF = {word: index for index, name in enumerate(CLASSES) for word in WORDS[name]}


@pytest.fixture(scope="module")
def encoder() -> Iterator[ClipEncoder]:
    torch.set_num_threads(1)
    config = SimpleNamespace(name="clip.json", pretrained="clip.safetensors", sha256="", batch_size=64)
    return load_clip(config, WEIGHTS, "cpu", "float32")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> train_clip.SimpleTokenizer:
    path = tmp_path_factory.mktemp("vocabulary") / "merges.txt.gz"
    captions.write_vocabulary(path)
    return train_clip.SimpleTokenizer(str(path), context_length=train_clip.CONTEXT)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> pairs.SceneStore:
    return pairs.open_store(tmp_path_factory.mktemp("scenes"), seed=9, count=12)


def named_in(text: str) -> set[int]:
    return {CLASS_OF[word] for word in captions.words_in(text) if word in CLASS_OF}


# ---- captions ----


def test_a_phrase_names_exactly_the_classes_given() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        named = rng.permutation(len(CLASSES))[: rng.integers(1, 5)].tolist()
        assert named_in(captions.phrase(rng, named)) == set(named)


def test_a_caption_names_only_what_its_crop_shows(store: pairs.SceneStore) -> None:
    rng = np.random.default_rng(1)
    complete = 0
    for i in range(len(store)):
        _, mask, regions = store[i]
        for _ in range(20):
            window = mask[pairs.crop_box(rng, mask, regions)]
            shares = np.array([(window == c).mean() for c in range(len(CLASSES))])
            seen = set(captions.visible(captions.shares_of(window)))
            assert seen == {c for c in range(len(CLASSES)) if shares[c] >= (0.025 if CLASSES[c] in THINGS else 0.05)}
            named = set(captions.choose(rng, captions.visible(shares)))
            assert named and named <= seen
            complete += named == seen
    assert 0.5 < complete / (20 * len(store)) < 1  # some captions leave something out, as people do


def test_things_are_named_before_the_stuff_they_stand_on() -> None:
    shares = np.zeros(len(CLASSES))
    shares[CLASSES.index("grass")], shares[CLASSES.index("star")], shares[CLASSES.index("sky")] = 0.7, 0.2, 0.03
    assert captions.visible(shares) == (CLASSES.index("star"), CLASSES.index("grass"))


def test_a_pair_is_a_function_of_its_seed(store: pairs.SceneStore) -> None:
    one, two, other = (pairs.batch(store, 32, 4, seed) for seed in ((1, 2), (1, 2), (1, 3)))
    assert one[0].shape == (4, 32, 32, 3) and one[0].dtype == np.uint8
    np.testing.assert_array_equal(one[0], two[0])
    assert one[1:] == two[1:]
    assert one[1] != other[1]


def test_a_store_gives_back_the_scenes_it_drew(store: pairs.SceneStore) -> None:
    for i in (0, 7, 11):
        scene = draw(9, i, "train")
        for stored, drawn in zip(store[i], (scene.photo, scene.mask, scene.regions), strict=True):
            np.testing.assert_array_equal(stored, drawn)


# ---- vocabulary ----


def test_captions_survive_the_tokenizer(tokenizer: train_clip.SimpleTokenizer) -> None:
    rng = np.random.default_rng(2)
    for _ in range(100):
        text = captions.phrase(rng, rng.permutation(len(CLASSES))[:3].tolist())
        assert captions.words_in(tokenizer.decode(tokenizer.encode(text))) == captions.words_in(text)
        assert len(tokenizer.encode(text)) + 2 <= train_clip.CONTEXT


def test_every_word_of_the_world_is_one_token_and_any_other_text_has_some(
    tokenizer: train_clip.SimpleTokenizer,
) -> None:
    for word in captions.vocabulary():
        assert len(tokenizer.encode(word)) == 1, word
    for text in ("zebra", "Straße", "猫", "x" * 500):
        assert tokenizer.decode(tokenizer.encode(text)).strip() == text.lower()
        assert tokenizer([text]).shape == (1, train_clip.CONTEXT)


def test_the_vocabulary_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    tokens = [captions.write_vocabulary(tmp_path / name) for name in ("a.gz", "b.gz")]
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert (tmp_path / "a.gz").read_bytes() == (WEIGHTS / train_clip.VOCABULARY).read_bytes()
    assert tokens[0] == json.loads((WEIGHTS / "clip.json").read_text())["text_cfg"]["vocab_size"]


# ---- loss ----


def test_the_loss_is_clips_own_without_the_pairs_of_equal_meaning() -> None:
    rng = np.random.default_rng(3)
    named = [(0,), (1, 7), (0,), (2,)]
    logits = rng.normal(size=(4, 4))
    expected = []
    for scores in (logits, logits.T):
        for i in range(4):
            negatives = [j for j in range(4) if j == i or named[j] != named[i]]
            expected.append(np.log(np.exp(scores[i, negatives]).sum()) - scores[i, i])
    loss = train_clip.contrastive_loss(torch.from_numpy(logits), train_clip.same_names(named))
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-9)


def test_training_learns_the_captions_of_a_few_pictures(
    store: pairs.SceneStore, tokenizer: train_clip.SimpleTokenizer
) -> None:
    torch.set_num_threads(1)
    trainer = train_clip.Trainer.start(train_clip.model_config(tokenizer.vocab_size), store)
    crops, texts, named = pairs.batch(store, train_clip.SIDE_PX, 8, (4,))
    same = train_clip.same_names(named)
    for _ in range(12):
        trainer.train_step(train_clip.images(crops), tokenizer(texts), same, done=0.0)
    assert trainer.losses[0] > 1.5 and trainer.losses[-1] < 0.5 * trainer.losses[0]


def test_training_goes_on_where_it_stopped(
    store: pairs.SceneStore, tokenizer: train_clip.SimpleTokenizer, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    config = train_clip.model_config(tokenizer.vocab_size)
    crops, texts, named = pairs.batch(store, train_clip.SIDE_PX, 4, (5,))
    step = (train_clip.images(crops), tokenizer(texts), train_clip.same_names(named), 0.9)
    whole, resumed = (train_clip.Trainer.start(config, store) for _ in range(2))
    whole.train_step(*step)
    whole.save(tmp_path / "checkpoint.pt")
    whole.train_step(*step)
    resumed.load(tmp_path / "checkpoint.pt")
    resumed.train_step(*step)
    assert resumed.step == whole.step == 2
    for ours, theirs in zip(resumed.average.parameters(), whole.average.parameters(), strict=True):
        assert torch.equal(ours, theirs)


# ---- the weights that ship ----


def test_the_weights_are_those_that_the_config_states_and_small() -> None:
    file = WEIGHTS / "clip.safetensors"
    stated = json.loads((WEIGHTS / "clip.json").read_text())
    assert hashlib.sha256(file.read_bytes()).hexdigest() == stated["sha256"]
    assert file.stat().st_size < 3_000_000
    assert {name: stated[name] for name in ("vision_cfg", "text_cfg")} == {
        name: train_clip.model_config(stated["text_cfg"]["vocab_size"])[name] for name in ("vision_cfg", "text_cfg")
    }


def test_portraits_are_named_without_training_on_them(encoder: ClipEncoder) -> None:
    """Chance is 1/6; what the weights reached stands in pocket/train_clip.py."""
    scenes = [scene for i in range(80) if (scene := draw(0, i, "eval")).kind == "portrait"]
    side = (encoder.image_px, encoder.image_px)
    photos = np.stack([np.asarray(Image.fromarray(s.photo).resize(side, encoder.resample)) for s in scenes])
    scores = encoder.crops(photos).numpy() @ encoder.text(THINGS, TEMPLATES).T
    truth = [THINGS.index(CLASSES[int(s.mask[captions.IS_THING[s.mask]][0])]) for s in scenes]
    assert len(scenes) > 25
    assert (scores.argmax(1) == truth).mean() > 0.4


def test_synonyms_lie_nearest_to_the_main_word_of_their_class(encoder: ClipEncoder) -> None:
    mains = encoder.text([WORDS[name][0] for name in CLASSES], TEMPLATES)
    synonyms = encoder.text([word for name in CLASSES for word in WORDS[name][1:]], TEMPLATES)
    of = np.repeat(np.arange(len(CLASSES)), [len(WORDS[name]) - 1 for name in CLASSES])
    assert ((synonyms @ mains.T).argmax(1) == of).mean() > 0.9
