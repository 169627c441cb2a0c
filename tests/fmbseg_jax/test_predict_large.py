"""`predict --picture`: a GeoTIFF in tiles to a mask with its coordinates, its regions, killed and gone on."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fmbseg_jax import predict
from fmbseg_jax.inference import large
from fmbseg_jax.inference.embedder import Towers
from fmbseg_jax.predicting import picture as large_picture
from labelgen.core.command import command
from labelgen.formats.classes import class_infos
from labelgen.models.clip import load_clip
from labelgen.models.trunks import load_timm
from tests.fmbseg_jax.test_predict import WORDS, photo
from tests.labelgen.sources.test_large import write
from tests.project.test_docs import blocks
from tests.worlds import tiny_models
from tests.worlds.run import write_run

rasterio = pytest.importorskip("rasterio", reason="an optional extra; installed, it reads large pictures")
SIZE_HW = (530, 170)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    weights = tiny_models.write(tmp_path_factory.mktemp("weights"))
    config = tiny_models.config(weights)
    common = (config.weights_dir, config.device, config.dtype)
    clip, encoder = load_clip(config.clip, *common), load_timm(config.encoder, *common)
    prototypes = clip.text(WORDS.words, config.labels.templates)
    kernel = np.random.default_rng(0).normal(size=(32, prototypes.shape[1]))
    identities = {"clip": clip.identity(), "encoder": encoder.identity()}
    return write_run(tmp_path_factory.mktemp("run"), config, kernel, WORDS, prototypes, identities)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """Four bands of 16 bits, of which 40 rows at the bottom have no value."""
    rgb = np.asarray(photo(*SIZE_HW, seed=4)).astype(np.uint16) * 40 + 300
    values = np.concatenate([rgb.transpose(2, 0, 1), rgb[None, ..., 0]])
    values[:, -40:] = 0
    return write(tmp_path / "field.tif", values, nodata=0, tiled=True, blockxsize=64, blockysize=64)


def predicted(run: Path, picture: Path, out: Path, *more: str) -> int:
    arguments = [f"--workdir={run}", f"--picture={picture}", f"--out={out}", *more]
    return command(predict.main, predict.arguments(), arguments)


def test_a_geotiff_to_a_mask_where_it_lies_and_its_regions(
    run: Path, picture: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out"
    assert predicted(run, picture, out, "--bands=3,2,1", "--stretch=2,98") == 0
    said = capsys.readouterr().out.splitlines()[-1]
    with rasterio.open(picture) as source, rasterio.open(out / "field.tif") as mask:
        assert (mask.crs, mask.transform, mask.shape) == (source.crs, source.transform, SIZE_HW)
        assert mask.profile["tiled"] and mask.profile["compress"] == "deflate" and mask.nodata == 255
        assert mask.tags(1) == {"CLASS_0": "ball", "CLASS_1": "box"}
        values = mask.read(1)
        assert mask.colormap(1)[0][:3] == tuple(class_infos(WORDS, WORDS.names)[0].colour)
    assert (values[-40:] == 255).all() and set(np.unique(values[:-40])) == {0, 1}
    assert f"{40 * SIZE_HW[1]} px have no value, and no class" in said
    features = json.loads((out / "field.geojson").read_text())["features"]
    assert len(features) == int(re.search(r"with (\d+) regions", said)[1]) > 1
    counts = {"ball": 0.0, "box": 0.0}
    for feature in features:
        shape = rasterio.warp.transform_geom("EPSG:4326", "EPSG:32633", feature["geometry"])
        rings = [np.array(ring) for ring in shape["coordinates"]]
        areas = [abs(np.sum(r[:-1, 0] * r[1:, 1] - r[1:, 0] * r[:-1, 1])) / 200 for r in rings]
        counts[feature["properties"]["class"]] += areas[0] - sum(areas[1:])
    assert [round(counts[name]) for name in WORDS.names] == [(values == i).sum() for i in range(2)]
    made_by = json.loads((out / "made_by.json").read_text())
    assert (
        made_by["whole"] and made_by["made_by"]["bands"] == [3, 2, 1] and made_by["made_by"]["percentiles"] == [2, 98]
    )
    assert len(made_by["made_by"]["low"]) == 3 and not list(out.glob("*.tiles")) and not list(out.glob("*.tmp"))
    assert Image.open(out / "overlays/field.jpg").size == (SIZE_HW[1], SIZE_HW[0])


def test_one_tile_is_what_the_head_says_of_it(run: Path, tmp_path: Path) -> None:
    """A picture of one tile is a photo of that size."""
    image = np.asarray(photo(48, 48, seed=5))
    tif = write(tmp_path / "a.tif", image.transpose(2, 0, 1))
    (tmp_path / "photos").mkdir()
    Image.fromarray(image).save(tmp_path / "photos/a.png")
    assert predicted(run, tif, tmp_path / "tiles") == 0
    arguments = [f"--workdir={run}", f"--photos={tmp_path / 'photos'}", f"--out={tmp_path / 'whole'}"]
    assert command(predict.main, predict.arguments(), arguments) == 0
    with rasterio.open(tmp_path / "tiles/a.tif") as mask:
        assert np.array_equal(mask.read(1), np.asarray(Image.open(tmp_path / "whole/masks/a.png")))


def test_killed_it_goes_on_at_the_row_of_tiles(
    run: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert predicted(run, picture, tmp_path / "calm") == 0
    features, seen = Towers.features, []

    def failing(self: Towers, tile: Any) -> Any:
        seen.append(tile)
        if len(seen) == 12:
            raise KeyboardInterrupt
        return features(self, tile)

    with monkeypatch.context() as patch:
        patch.setattr(Towers, "features", failing)
        assert predicted(run, picture, tmp_path / "out") == 130
    assert predicted(run, picture, tmp_path / "out", "--bands=1") == 2
    assert "was made with bands = [1, 2, 3], but now it is [1]" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(large, "stitch", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        patch.setattr(large_picture, "stitch", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert predicted(run, picture, tmp_path / "out") == 130
    assert predicted(run, picture, tmp_path / "out") == 0
    assert re.search(r"of 0 tiles; \d+ tiles were there already", capsys.readouterr().out.splitlines()[-1])
    assert predicted(run, picture, tmp_path / "out") == 0
    assert f"{tmp_path / 'out'}: is whole already; next: look at" in capsys.readouterr().out
    for name in ("field.tif", "field.geojson", "overlays/field.jpg"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "calm" / name).read_bytes()


def test_what_the_user_must_fix(run: Path, picture: Path, tmp_path: Path, capsys: Any) -> None:
    for more, message in (
        ([f"--out={picture.parent}"], "the mask would take the place of the picture; name another folder"),
        (["--format=coco"], "--picture: is written in its own formats, in one process: leave --format"),
        (["--bands=9"], "field.tif: bands 9; it has 4: name three, or one, from 1 on"),
        (["--stretch=98,2"], "--stretch=98.0,2.0: two percentiles are wanted, 0 to 100, the lower first"),
        (["--tile_px=2"], "--tile_px=2: less than a px for each of"),
        ([f"--picture={tmp_path / 'gone.tif'}"], "gone.tif: no such picture"),
    ):
        assert predicted(run, picture, tmp_path / "out", *more) == 2
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error


def test_the_commands_of_the_page_run(
    run: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    av = pytest.importorskip("av", reason="an optional extra; installed, it reads videos")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").symlink_to(run)
    with av.open("clip.mp4", "w") as file:
        stream = file.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        file.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(photo(48, 64)), format="rgb24")))
        file.mux(stream.encode())
    lines = [line.split() for block in blocks("docs/large.md") for line in block.splitlines()]
    assert len(lines) == 4
    for _, _, module, *arguments in lines:
        named = importlib.import_module(module)
        assert command(named.main, named.arguments(), arguments) == 0, capsys.readouterr().err
    for name in (
        "masks/field.tif",
        "masks-infrared/field.geojson",
        "masks-clip/clip.mp4",
        "masks-clip/masks/clip/000000.png",
    ):
        assert (tmp_path / name).stat().st_size
    assert (tmp_path / "photos/field@0,0.png").exists()
