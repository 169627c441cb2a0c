"""Masks of encoded photos and of folders of photos, by trained words and others; bad photos and bad setups."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from fmbseg_jax import predict
from fmbseg_jax.inference.embedder import Towers, check_same_weights
from fmbseg_jax.inference.label_maps import sharpened_classes
from fmbseg_jax.predicting.folder import Item, Masks
from labelgen.core.command import command
from labelgen.core.config import load_config
from labelgen.core.errors import UserError
from labelgen.core.ontology import parse_words
from labelgen.data.dataset import Dataset
from labelgen.data.thumbnail import thumbnail
from labelgen.formats.classes import class_infos
from labelgen.formats.palette import palette
from labelgen.models.clip import load_clip
from labelgen.models.trunks import load_timm
from tests.worlds import tiny, tiny_models
from tests.worlds.data import write_family
from tests.worlds.labelling import ONTOLOGY, PROTOTYPES
from tests.worlds.paths import ROOT
from tests.worlds.reference import pixel_logits
from tests.worlds.run import write_run

WORDS = parse_words(["ball", "box: box, crate"], "words")


def predicted(*arguments: Any) -> int:
    return command(predict.main, predict.arguments(), [str(a) for a in arguments])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), load_config(str(ROOT / "configs/default.py")))


def test_masks_of_encoded_photos(data: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predicted(f"--workdir={run}", f"--data={data}", f"--out={tmp_path}") == 0
    for photo in range(5):
        logits = pixel_logits(tiny.embeddings(photo), PROTOTYPES, ONTOLOGY.word_class, tiny.features(photo).size_hw)
        mask = Image.open(tmp_path / f"masks/eval/p{photo}.png")
        assert mask.mode == "P" and np.array_equal(np.asarray(mask), logits.argmax(0))
        assert mask.getpalette()[:9] == palette(3).ravel().tolist()
    assert len(list((tmp_path / "masks").rglob("*.png"))) == 7
    out = capsys.readouterr().out
    assert "wrote 7 masks and 0 overlays (no overlays: the photos are not at photos.root" in out


def test_overlays_of_encoded_photos_that_are_still_there(data: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for i in range(4):
        height, width = tiny.features(i).size_hw
        photo(height, width + (i == 1)).save(tmp_path / f"photos/p{i}.png")  # p1 is another picture by now
    config = load_config(str(ROOT / "configs/default.py"))
    with config.unlocked():
        config.photos.root = str(tmp_path)
        config.photos.splits = {"eval": {"photos": "photos", "masks": ""}}
    run = write_run(tmp_path / "run", config)
    assert predicted(f"--workdir={run}", f"--data={data}", f"--out={tmp_path / 'out'}") == 0
    overlays = {str(path.relative_to(tmp_path / "out/overlays")) for path in (tmp_path / "out").rglob("*.jpg")}
    assert overlays == {"eval/p0.jpg", "eval/p2.jpg", "eval/p3.jpg"}
    assert len(list((tmp_path / "out/masks").rglob("*.png"))) == 7


def test_sharpened_where_the_picture_is_at_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    pictures = {i: photo(*tiny.features(i).size_hw, seed=i) for i in range(4)}
    for i, picture in pictures.items():
        picture.save(tmp_path / f"photos/p{i}.png")
    config = load_config(str(ROOT / "configs/default.py"))
    with config.unlocked():
        config.photos.root = str(tmp_path)
        config.photos.splits = {"eval": {"photos": "photos", "masks": ""}}
    data, run, out = tiny.write_data(tmp_path / "data"), write_run(tmp_path / "run", config), tmp_path / "out"
    where = (f"--workdir={run}", f"--data={data}")
    assert predicted(*where, f"--out={out}", "--sharpen") == 0
    assert "; 3 masks are not sharpened, for want of their pictures" in capsys.readouterr().out  # p4, and split train
    assert json.loads((out / "made_by.json").read_text())["made_by"]["sharpened"] is True
    differ = 0
    for i in range(5):
        asked = tiny.embeddings(i), PROTOTYPES, ONTOLOGY.word_class
        plain = pixel_logits(*asked, tiny.features(i).size_hw).argmax(0)
        wanted = sharpened_classes(*asked, np.asarray(pictures[i]), config.train.temperature) if i < 4 else plain
        assert np.array_equal(np.asarray(Image.open(out / f"masks/eval/p{i}.png")), wanted)
        differ += not np.array_equal(plain, wanted)
    assert differ == 4
    assert predicted(*where, f"--out={out}") == 2, "other masks than those of MASKS"
    with config.unlocked():
        config.eval.sharpen = True
    where = (f"--workdir={write_run(tmp_path / 'sharp', config)}", f"--data={data}")
    for flags, said in (((), True), (("--no-sharpen",), False)):
        assert predicted(*where, f"--out={tmp_path / f'{said}'}", *flags) == 0
        assert ("not sharpened" in capsys.readouterr().out) is said


def test_a_picture_replaced_under_its_name_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    rows = []
    for i in range(4):
        picture = photo(*tiny.features(i).size_hw, seed=i)
        rows.append(replace(tiny.features(i), thumbnail=thumbnail(np.asarray(picture))))
        decoded = np.asarray(picture).astype(int) + np.random.default_rng(i).integers(-2, 3, (*picture.size[::-1], 3))
        Image.fromarray(decoded.clip(0, 255).astype(np.uint8)).save(tmp_path / f"photos/p{i}.png")  # another decoder's
    photo(*tiny.features(2).size_hw, seed=9).save(tmp_path / "photos/p2.png")
    (tmp_path / "photos/p3.png").unlink()
    data = tiny.write_data(tmp_path / "data")
    counts = Dataset.open(data).info["splits"]["eval"]["rows"]
    rows.append(tiny.features(4))
    shards = [rows[start:end] for start, end in zip([0, *np.cumsum(counts)], np.cumsum(counts), strict=False)]
    write_family(data / "features", "eval", shards)
    config = load_config(str(ROOT / "configs/default.py"))
    with config.unlocked():
        config.photos.root = str(tmp_path)
        config.photos.splits = {"eval": {"photos": "photos", "masks": ""}}
    run, out = write_run(tmp_path / "run", config), tmp_path / "out"
    assert predicted(f"--workdir={run}", f"--data={data}", f"--out={out}") == 0
    assert {path.stem for path in (out / "overlays").rglob("*.jpg")} == {"p0", "p1"}
    said = capsys.readouterr().out
    assert f"; 1 pictures are others than were encoded, no overlays, see {out}/failures.jsonl" in said
    assert "; 4 pictures are not at photos.root any more, no overlays" in said
    assert "another picture than the one that DATA was encoded with" in (out / "failures.jsonl").read_text()
    assert json.loads((out / "made_by.json").read_text())["replaced"] == 1


def test_classes_json_says_what_the_colours_mean(data: Path, run: Path, tmp_path: Path) -> None:
    assert predicted(f"--workdir={run}", f"--data={data}", f"--out={tmp_path}") == 0
    classes = json.loads((tmp_path / "classes.json").read_text())
    assert [(name, c["index"], c["words"]) for name, c in classes.items()] == [
        ("ball", 1, ["ball"]), ("box", 2, ["box"]), ("grass", 0, ["grass", "lawn"])
    ]  # fmt: skip
    assert classes["grass"]["colour"] == "#" + bytes(palette(1)[0]).hex()


def test_more_classes_than_a_palette_holds(tmp_path: Path) -> None:
    ontology = parse_words([f"class {i}" for i in range(300)], "words")
    label_map = np.array([[0, 299], [255, 256]], np.uint16)
    row = tiny.features(0)
    classes = class_infos(ontology, ontology.names)
    Masks(tmp_path, classes, ("png",)).write(Item(0, "a", row, None, "a", None), label_map)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "masks/a.png")), label_map)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.write(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def small_run(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RUN of a random linear head over the features of a small random DINOv2."""
    config = tiny_models.config(weights)
    common = (config.weights_dir, config.device, config.dtype)
    clip, encoder = load_clip(config.clip, *common), load_timm(config.encoder, *common)
    prototypes = clip.text(WORDS.words, config.labels.templates)
    kernel = np.random.default_rng(0).normal(size=(32, prototypes.shape[1]))
    identities = {"clip": clip.identity(), "encoder": encoder.identity()}
    return write_run(tmp_path_factory.mktemp("small"), config, kernel, WORDS, prototypes, identities)


def photo(height: int, width: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3)).astype(np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def expected(weights: Path, image: Image.Image, prototypes: np.ndarray, word_class: tuple[int, ...]) -> np.ndarray:
    """Class per pixel in float64, from the encoder's own features."""
    config = tiny_models.config(weights)
    encoder = load_timm(config.encoder, config.weights_dir, config.device, config.dtype)
    features = encoder.features(np.asarray(image.convert("RGB")))
    z = features.astype(np.float64) @ np.random.default_rng(0).normal(size=(32, prototypes.shape[1]))
    z /= np.linalg.norm(z, axis=-1, keepdims=True)
    return pixel_logits(z, prototypes, word_class, (image.height, image.width)).argmax(0)


def test_a_folder_of_photos_of_every_kind(
    weights: Path, small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    (photos / "deep").mkdir(parents=True)
    photo(40, 53).save(photos / "plain.png")
    photo(64, 31).convert("L").save(photos / "deep/grey.jpg")
    photo(30, 44).convert("CMYK").save(photos / "cmyk.jpg")
    photo(1, 1).save(photos / "pixel.png")
    rotated = Image.Exif()
    rotated[0x0112] = 6
    photo(20, 50).save(photos / "rotated.jpg", exif=rotated)
    (photos / "empty.jpg").touch()
    (photos / "text.png").write_text("no picture")
    whole = (photos / "plain.png").read_bytes()
    (photos / "torn.png").write_bytes(whole[: len(whole) // 2])

    out = tmp_path / "out"
    assert predicted(f"--workdir={small_run}", f"--photos={photos}", f"--out={out}") == 0
    sizes = {"plain": (53, 40), "deep/grey": (31, 64), "cmyk": (44, 30), "pixel": (1, 1), "rotated": (20, 50)}
    for name, size in sizes.items():
        assert Image.open(out / f"masks/{name}.png").size == size
        assert Image.open(out / f"overlays/{name}.jpg").size == size
    assert len(list((out / "masks").rglob("*.png"))) == len(sizes)
    failures = [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]
    assert [f["file"] for f in failures] == ["empty.jpg", "text.png", "torn.png"]
    assert all(f["reason"] and f["mend"] for f in failures)
    assert "wrote 5 masks and 5 overlays to" in (text := capsys.readouterr().out) and "skipped 3 photos" in text


def test_liberties_taken_with_pictures_are_counted_and_listed(
    small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    photo(40, 53).save(photos / "pages.tif", save_all=True, append_images=[photo(40, 53, 1)] * 2)
    photo(40, 53).save(photos / "plain.png")
    assert predicted(f"--workdir={small_run}", f"--photos={photos}", f"--out={out}") == 0
    assert "; 1 by the first of its pages, see " in capsys.readouterr().out
    (line,) = [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]
    assert line["file"] == "pages.tif" and line["used"] and line["mend"]


def test_of_a_folder_the_photos_alone_are_taken(
    weights: Path, small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, long = one_photo(tmp_path / "photos"), "n" * 240
    photo(20, 30).save(photos / f"{long}.jpg")
    (photos / "b.cr2").touch()
    (photos / "here").symlink_to(".")
    assert predicted(f"--workdir={small_run}", f"--photos={photos}", f"--out={tmp_path / 'out'}") == 0
    assert Image.open(tmp_path / f"out/masks/{long}.png").size == (30, 20)
    assert Image.open(tmp_path / f"out/overlays/{long}.jpg").size == (30, 20)
    shutil.copytree(tmp_path / "out", photos / "before")
    assert predicted(f"--workdir={small_run}", f"--photos={photos}", f"--out={tmp_path / 'out'}") == 0
    failures = [json.loads(line) for line in (tmp_path / "out/failures.jsonl").read_text().splitlines()]
    assert [f["file"] for f in failures] == ["b.cr2", "before/masks", "before/overlays", "here"]
    assert all(f["reason"] and f["mend"] for f in failures)
    said = capsys.readouterr().out.splitlines()[-1]
    there = "2 masks were there already; left out: 1 .cr2, 3 folders, see "
    assert f"wrote 0 masks and 0 overlays to {tmp_path / 'out'}; {there}" in said


def test_masks_of_encoded_photos_do_not_go_among_them(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config(str(ROOT / "configs/default.py"))
    with config.unlocked():
        config.photos.root = str(one_photo(tmp_path / "photos").parent)
        config.photos.splits = {"eval": {"photos": "photos", "masks": ""}}
    run = write_run(tmp_path / "run", config)
    assert predicted(f"--workdir={run}", f"--data={data}", f"--out={tmp_path / 'photos/masks'}") == 2
    assert "photos/masks lies within the photos, " in capsys.readouterr().err


def test_the_mask_is_what_the_features_say(weights: Path, small_run: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    image = photo(56, 71, seed=3)
    image.save(tmp_path / "photos/a.png")
    assert predicted(f"--workdir={small_run}", f"--photos={tmp_path / 'photos'}", f"--out={tmp_path / 'out'}") == 0
    config = tiny_models.config(weights)
    clip = load_clip(config.clip, config.weights_dir, config.device, config.dtype)
    prototypes = clip.text(WORDS.words, config.labels.templates)
    wanted = expected(weights, image, prototypes, WORDS.word_class)
    got = np.asarray(Image.open(tmp_path / "out/masks/a.png"))
    assert 0.02 < wanted.mean() < 0.98
    assert (got != wanted).mean() < 0.02  # features are stored in bfloat16


def test_other_words_than_the_trained_ones(weights: Path, small_run: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    image = photo(48, 48, seed=5)
    image.save(tmp_path / "photos/a.png")
    (tmp_path / "words.txt").write_text("lid: ll\nloo: boo, ooo\nbox\n")
    arguments = [f"--workdir={small_run}", f"--photos={tmp_path / 'photos'}", f"--words={tmp_path / 'words.txt'}"]
    assert predicted(*arguments, f"--out={tmp_path / 'out'}") == 0
    config = tiny_models.config(weights)
    clip = load_clip(config.clip, config.weights_dir, config.device, config.dtype)
    prototypes = clip.text(("ll", "boo", "ooo", "box"), config.labels.templates)
    wanted = expected(weights, image, prototypes, (0, 1, 1, 2))
    assert (np.asarray(Image.open(tmp_path / "out/masks/a.png")) != wanted).mean() < 0.02
    assert sorted(json.loads((tmp_path / "out/classes.json").read_text())) == ["box", "lid", "loo"]


def one_photo(folder: Path) -> Path:
    folder.mkdir()
    photo(20, 20).save(folder / "a.png")
    return folder


def only_bad_photos(tmp_path: Path, run: Path) -> list[str]:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").touch()
    return [f"--workdir={run}", f"--photos={tmp_path / 'photos'}", f"--out={tmp_path / 'out'}"]


def out_within_photos(tmp_path: Path, run: Path) -> list[str]:
    photos = one_photo(tmp_path / "photos")
    return [f"--workdir={run}", f"--photos={photos}", f"--out={photos / 'masks'}"]


def bands_of_photos(tmp_path: Path, run: Path) -> list[str]:
    return [f"--workdir={run}", f"--photos={tmp_path}", f"--out={tmp_path / 'out'}", "--bands=3,2,1"]


def overlap_of_photos(tmp_path: Path, run: Path) -> list[str]:
    return [f"--workdir={run}", f"--photos={tmp_path}", f"--out={tmp_path / 'out'}", "--overlap=0"]


def no_run(tmp_path: Path, run: Path) -> list[str]:
    return [f"--workdir={tmp_path}", f"--photos={one_photo(tmp_path / 'photos')}", f"--out={tmp_path / 'out'}"]


def no_photos(tmp_path: Path, run: Path) -> list[str]:
    return [f"--workdir={run}", f"--photos={tmp_path / 'nowhere'}", f"--out={tmp_path / 'out'}"]


def no_words(tmp_path: Path, run: Path) -> list[str]:
    photos = one_photo(tmp_path / "photos")
    return [f"--workdir={run}", f"--photos={photos}", f"--out={tmp_path / 'out'}", f"--words={tmp_path / 'words.txt'}"]


def no_weights(tmp_path: Path, run: Path) -> list[str]:
    photos = one_photo(tmp_path / "photos")
    return [f"--workdir={run}", f"--photos={photos}", f"--out={tmp_path / 'out'}", f"--weights_dir={tmp_path}"]


@pytest.mark.parametrize(
    ("setup", "message"),
    [
        (only_bad_photos, "none of 1 photos could be read; .*failures.jsonl says why"),
        (out_within_photos, "lies within the photos, .*/photos: masks would become photos; name another folder"),
        (bands_of_photos, "--bands belongs to --picture; leave it out, or name the picture"),
        (overlap_of_photos, "--overlap belongs to --picture; leave it out, or name the picture"),
        (no_run, "no checkpoints in it; train first"),
        (no_photos, "nowhere: no such folder of photos"),
        (no_words, "words.txt: no such file of words"),
        (no_weights, "dinov2.json: no such model config"),
    ],
)
def test_what_the_user_must_fix(
    setup: Callable[[Path, Path], list[str]],
    message: str,
    small_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert predicted(*setup(tmp_path, small_run)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert re.search(message, lines[-1])


def other_weights(weights: Path, folder: Path, name: str) -> Path:
    """The same models, one with other numbers."""
    shutil.copytree(weights, folder)
    tensors = load_file(folder / f"{name}.safetensors")
    save_file({key: value + 1 for key, value in tensors.items()}, folder / f"{name}.safetensors")
    return folder


@pytest.mark.parametrize(("file", "name"), [("clip", "clip"), ("dinov2", "encoder")])
def test_weights_that_are_not_the_runs(
    file: str, name: str, weights: Path, small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, folder = one_photo(tmp_path / "photos"), other_weights(weights, tmp_path / "weights", file)
    (tmp_path / "words.txt").write_text("ball\n")
    given = [f"--photos={photos}", f"--words={tmp_path / 'words.txt'}", f"--weights_dir={folder}"]
    assert predicted(f"--workdir={small_run}", *given, f"--out={tmp_path / 'out'}") == 2
    assert f"{name}.sha256 is " in (error := capsys.readouterr().err) and "but the RUN was trained with" in error
    assert not (tmp_path / "out").exists()


def test_data_of_another_encoder(
    data: Path, small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predicted(f"--workdir={small_run}", f"--data={data}", f"--out={tmp_path}") == 2
    assert "but the RUN was trained with" in capsys.readouterr().err


def test_a_head_is_refused_features_of_another_grid_or_of_other_windows() -> None:
    view = {"size_px": 64, "height_px": 32, "window_px": 0, "stride_px": 0}
    trained = {"weights": "w", "sha256": "0", "patch_px": 8, **view}
    restored: Any = SimpleNamespace(encoders={"encoder": trained})
    check_same_weights(restored, "encoder", trained, "here")
    for field in ("height_px", "window_px", "stride_px"):
        with pytest.raises(UserError, match=rf"here: encoder.{field} is 16 \(w\), but the RUN was trained with"):
            check_same_weights(restored, "encoder", {**trained, field: 16}, "here")


def test_masks_belong_to_their_run_and_words(
    data: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a second predict with other words would write half of MASKS anew under the names of the first."""
    out = tmp_path / "out"
    arguments = [f"--workdir={run}", f"--data={data}", f"--out={out}"]
    assert predicted(*arguments) == 0
    made_by = json.loads((out / "made_by.json").read_text())
    assert made_by["whole"] and made_by["masks"] == 7 and made_by["skipped"] == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert predicted(*arguments) == 0  # the same again
    other = write_run(tmp_path / "run", load_config(str(ROOT / "configs/default.py")), np.eye(5)[::-1])
    for more, field in (
        (["--background_threshold=.9"], "background_threshold = 0"),
        ([f"--workdir={other}"], "parameters (digest) = "),
    ):
        assert predicted(*arguments, *more) == 2
        error = capsys.readouterr().err
        assert f"{out} was made with {field}" in error and "take another --out, or delete it" in error
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Masks, "write", interrupted)
    assert predicted(*arguments) == 130
    assert "(with --data it begins again); until it ends MASKS is not whole" in capsys.readouterr().err
    assert json.loads((out / "made_by.json").read_text())["whole"] is False


def test_masks_from_before_they_were_claimed(
    data: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"--workdir={run}", f"--data={data}", f"--out={tmp_path}"]
    assert predicted(*arguments) == 0
    (tmp_path / "made_by.json").unlink()
    assert predicted(*arguments) == 0
    (tmp_path / "made_by.json").unlink()
    classes = (tmp_path / "classes.json").read_text()
    for text in (classes.replace("ball", "bull"), "{}"):
        (tmp_path / "classes.json").write_text(text)
        assert predicted(*arguments) == 2
        assert f"{tmp_path}: has masks, and nothing says that they are of the same words" in capsys.readouterr().err


def test_a_folder_that_gained_photos(
    small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for i in range(3):
        photo(20 + i, 30, seed=i).save(photos / f"b{i}.png")
    arguments = [f"--workdir={small_run}", f"--photos={photos}", f"--out={out}", "--format=png,coco"]
    assert predicted(*arguments) == 0
    before = {path: path.read_bytes() for path in out.rglob("*.*g")}
    photo(22, 30, seed=7).save(photos / "a.png")  # another number for all that come after it
    photo(20, 30, seed=8).save(photos / "b0.png")  # another photo of that name
    (photos / "b1.png").rename(photos / "c.png")
    (out / "masks/b2.png").unlink()
    (out / "predicted-0.jsonl").open("ab").write(b'{"photo": "a"')  # killed within a line
    seen: list[str] = []
    features = Towers.features
    monkeypatch.setattr(Towers, "features", lambda *a: (seen.append(a[1].photo_id), features(*a))[1])
    capsys.readouterr()
    assert predicted(*arguments) == 0
    assert seen == ["a", "b0", "b2", "c"]
    said = capsys.readouterr().out.splitlines()[-1]
    assert f"wrote 4 masks (png, coco) and 4 overlays to {out}; 1 masks are of photos that are not there any" in said
    assert predicted(*arguments) == 0
    assert seen == ["a", "b0", "b2", "c"]
    said = capsys.readouterr().out.splitlines()[-1]
    assert "wrote 0 masks (png, coco) and 0 overlays" in said and "; 4 masks were there already" in said
    coco = json.loads((out / "coco/semantic.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["a.png", "b0.png", "b2.png", "c.png"]
    assert {each["image_id"] for each in coco["annotations"]} == {1, 2, 3, 4}
    assert json.loads((out / "made_by.json").read_text())["masks"] == 4
    assert (out / "masks/b2.png").read_bytes() == before[out / "masks/b2.png"]
    assert (out / "masks/b0.png").read_bytes() != before[out / "masks/b0.png"]
