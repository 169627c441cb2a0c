"""The exported head gives the Embedder's vectors, the examples of docs/export.md its masks, without our packages."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from fmbseg_jax import export
from fmbseg_jax.inference.embedder import Embedder
from fmbseg_jax.inference.segmenter import Segmenter
from fmbseg_jax.runs.checkpoint import Restored, restore_run
from fmbseg_jax.runs.settings import HeadConfig
from labelgen.core.command import command
from labelgen.data.records import FeatureRow
from labelgen.sources.photos import Photo
from tests.worlds import tiny_models, tiny_run
from tests.worlds.paths import ROOT
from tests.worlds.tiny_run import picture

EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs/export.md").read_text(), re.DOTALL)
GUARD = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {banned!r}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Missing())
"""
OURS = ("fmbseg_jax", "labelgen", "pocket", "configs", "tests", "flax", "ml_collections", "orbax")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.write(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def run(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.write(tmp_path_factory.mktemp("run"), weights)


@pytest.fixture(scope="module")
def folder(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "new"
    assert exported(f"--workdir={run}", f"--out={out}") == 0
    return out


def exported(*arguments: str) -> int:
    return command(export.main, export.arguments(), arguments)


def alone(code: str, folder: Path, banned: tuple[str, ...]) -> None:
    """Runs code in `folder` where some packages cannot be imported."""
    script = GUARD.format(banned=banned) + code
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def with_head(restored: Restored, config: HeadConfig) -> Restored:
    """The same RUN with another head, of random parameters."""
    changed = replace(restored, head=config)
    shape = jnp.zeros((1, 1, 1, restored.feature_width)), jnp.ones((1, 1, 1), bool)
    params = changed.head_module("cpu").init(jax.random.key(1), *shape)["params"]
    noise = np.random.default_rng(0)
    return replace(changed, params=jax.tree.map(lambda x: x + 0.1 * noise.normal(size=x.shape).astype("f4"), params))


def rows(count: int, grid_hw: tuple[int, int], width: int) -> list[FeatureRow]:
    """Random features; the last photo has one row of patches less."""
    numbers = np.random.default_rng(count)
    features = [numbers.normal(size=(*grid_hw, width)).astype(np.float32) for _ in range(count)]
    valid = [grid_hw] * (count - 1) + [(grid_hw[0] - 1, grid_hw[1])]
    return [FeatureRow("p", (8, 8), (0.0, 0.0, 8.0, 8.0), v, f) for v, f in zip(valid, features, strict=True)]


@pytest.mark.parametrize(
    "config",
    [
        HeadConfig(blocks=0, heads=4, hidden=0, dtype="float32"),
        HeadConfig(blocks=0, heads=4, hidden=16, dtype="bfloat16"),
        HeadConfig(blocks=2, heads=4, hidden=0, dtype="float32"),
    ],
)
def test_the_function_gives_what_the_embedder_gives(config: HeadConfig, run: Path) -> None:
    restored = with_head(restore_run(run), config)
    read = jax.export.deserialize(bytearray(export.stablehlo(restored)))
    assert set(read.platforms) == {"cpu", "cuda", "tpu"}
    for count, grid in ((1, (3, 4)), (3, (2, 6))):
        photos = rows(count, grid, restored.feature_width)
        wanted = Embedder(restored, count)(photos)
        valid = np.ones((count, *grid), bool)
        valid[-1, grid[0] - 1 :] = False
        z = np.asarray(read.call(np.stack([row.features for row in photos]), valid))
        for found, right, row in zip(z, wanted, photos, strict=True):
            assert np.abs(found[: row.grid_hw[0], : row.grid_hw[1]] - right).max() < 1e-6
            assert right.std() > 0.05


def test_the_arrays_and_what_is_said_of_them(run: Path, folder: Path) -> None:
    restored, arrays = restore_run(run), load_file(folder / "head.safetensors")
    assert sorted(arrays) == ["project.bias", "project.kernel", "prototypes"]
    assert np.array_equal(arrays["project.kernel"], tiny_run.KERNEL.astype(np.float32))
    assert np.array_equal(arrays["prototypes"], restored.prototypes)
    about = json.loads((folder / "head.json").read_text())
    assert about["classes"] == ["ball", "box"] and about["words"] == ["ball", "box", "crate"]
    assert about["word_class"] == [0, 1, 1] and about["temperature"] == restored.temperature
    assert about["encoder"]["sha256"] == restored.encoders["encoder"]["sha256"]
    assert about["clip"]["sha256"] == restored.encoders["clip"]["sha256"]
    assert about["grid_hw"] == [6, 6] and about["head"]["blocks"] == 0
    assert "/" not in (folder / "head.json").read_text()


def test_blocks_are_arrays_by_dotted_names(run: Path) -> None:
    restored = with_head(restore_run(run), HeadConfig(blocks=1, heads=4, hidden=8, dtype="float32"))
    arrays = export.arrays(restored)
    assert arrays["block_0.qkv.kernel"].shape == (32, 3, 4, 8)
    assert arrays["hidden.kernel"].shape == (32, 8) and arrays["norm.scale"].shape == (32,)
    assert sum(a.size for a in arrays.values()) == sum(x.size for x in jax.tree.leaves(restored.params)) + 3 * 24


def test_the_examples_give_the_same_label_map_without_our_code(weights: Path, run: Path, folder: Path) -> None:
    """From the photo on: features by timm, masks by numpy, vectors by jax, each where little else can be imported."""
    picture(40, 53).save(folder / "photo.jpg", quality=95)
    segmenter = Segmenter.restore(run)
    wanted = segmenter(folder / "photo.jpg")
    features, label_map, vectors = EXAMPLES
    weights_file, model_args = str(weights / "dinov2.safetensors"), tiny_models.DINO_JSON["model_args"]
    made = f'timm.create_model("{tiny_models.DINO_JSON["name"]}", num_classes=0, dynamic_img_size=True, **{model_args})'
    hub = 'timm.create_model(encoder["name"], pretrained=True, num_classes=0, dynamic_img_size=True)'
    assert hub in features  # the tiny model is on no hub
    loaded = f"from safetensors.torch import load_file\nmodel.load_state_dict(load_file({weights_file!r}))\nphoto = "
    shim_file = str(ROOT / "labelgen/models/torchvision_shim.py")
    shim = f"import runpy\nrunpy.run_path({shim_file!r})['install']()\n"  # as our own loaders do
    alone(shim + features.replace(hub, made).replace("photo = ", loaded, 1), folder, (*OURS, "jax"))
    alone(f"{label_map}\nnp.save('label_map.npy', label_map)", folder, (*OURS, "jax", "torch", "timm", "scipy"))
    alone(f"{vectors}\nnp.save('z.npy', z)", folder, (*OURS, "torch", "timm"))
    found = np.load(folder / "label_map.npy")
    assert 0.02 < wanted.label_map.mean() < 0.98
    assert (found != wanted.label_map).mean() < 0.01  # the Segmenter rounds features to bfloat16
    assert np.abs(np.load(folder / "z.npy") - segmenter.embeddings(wanted.image).z).max() < 0.02


def test_the_numpy_example_gives_the_very_same_label_map_of_the_same_features(run: Path, folder: Path) -> None:
    segmenter, image = Segmenter.restore(run), np.asarray(picture(70, 45, 6))
    row = segmenter._towers.features(Photo("", image))
    h, w = row.grid_hw
    np.savez(folder / "photo.npz", features=row.features[:h, :w].astype(np.float32), size_hw=image.shape[:2])
    alone(f"{EXAMPLES[1]}\nnp.save('label_map.npy', label_map)", folder, (*OURS, "jax", "torch"))
    wanted = segmenter(image)
    assert len(wanted.shares) == 2
    assert np.array_equal(np.load(folder / "label_map.npy"), wanted.label_map)


def test_the_numpy_example_has_ten_lines() -> None:
    lines = [line for line in EXAMPLES[1].splitlines() if line and not line.startswith(("import", "from"))]
    assert len(lines) <= 10


def test_without_flatbuffers_it_says_what_to_install(run: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    def missing(self: object) -> None:
        raise ImportError("Please install 'flatbuffers'")

    monkeypatch.setattr(jax.export.Exported, "serialize", missing)
    assert exported(f"--workdir={run}", f"--out={tmp_path / 'out'}") == 2
    assert "pip install flatbuffers" in capsys.readouterr().err and not (tmp_path / "out").exists()
