"""The pocket DINOv2: timm's network, batches and loss by hand, training that goes on bit-equal, weights that tell."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from labelgen.models.trunks import load_timm
from pocket import dino_model, probe, train_dinov2
from pocket.dino_data import GRID, NONE, Twins
from pocket.scenes import CLASSES, draw
from pocket.train_dinov2 import Run, batch, cutmix, soft_cross_entropy, targets


@pytest.fixture(scope="module")
def twins() -> Twins:
    """Three layouts of noise, two of them 24 x 20 patches; region r fills rows 8 r … 8 r + 7 of the grid."""
    rng = np.random.default_rng(0)
    grids = np.array([(24, 24), (24, 20), (24, 20)])
    shares = np.zeros((3, 8, GRID, GRID), np.float16)
    for layout, (h, w) in enumerate(grids):
        for region in range(3):
            shares[layout, region, 8 * region : min(8 * region + 8, h), :w] = 1
    clusters = np.full((3, 8), NONE)
    clusters[:, :3] = [[0, 1, 2], [3, 4, NONE], [5, 6, 7]]
    return Twins(rng.integers(0, 255, (3, 4, 192, 192, 3), np.uint8), shares, grids, clusters, clusters)


def test_features_of_whole_photos_are_timms() -> None:
    torch.manual_seed(0)
    model = dino_model.build().eval()
    model.pos_embed.data.normal_()
    pixels = torch.randn(1, 3, 192, 160)
    with torch.inference_mode():
        ours, theirs = dino_model.features(model, pixels), model.forward_features(pixels)
    torch.testing.assert_close(ours.flatten(1, 2), theirs[:, 1:])


def test_a_crop_has_the_positions_of_its_place() -> None:
    model = dino_model.build()
    model.pos_embed.data = torch.arange(1 + GRID * GRID).float()[None, :, None].expand(-1, -1, dino_model.WIDTH)
    found = dino_model.positions(model, (2, 3), (5, 7))[0, :, 0]
    first = 1 + 5 * GRID + 7
    assert found.tolist() == [0, first, first + 1, first + 2, first + GRID, first + GRID + 1, first + GRID + 2]


def test_crops_cut_photo_and_shares_alike(twins: Twins) -> None:
    for seed in range(6):
        drawn = batch(twins, np.random.default_rng(seed), 12, 2)
        assert drawn.photos.shape == (2, 96, 96, 3) and drawn.corner_yx is not None
        top, left = drawn.corner_yx
        photo = twins.photos[int(drawn.layouts[0]), :, 8 * top : 8 * top + 96, 8 * left : 8 * left + 96]
        candidates = [*photo, *photo[:, :, ::-1]]
        assert any((drawn.photos[0] == candidate).all() for candidate in candidates)
        rows = (top + torch.arange(12)) // 8
        assert (drawn.shares[0].argmax(0) == rows[:, None]).all()
        assert (drawn.shares.sum(1) == 1).all()  # no crop reaches beyond a photo


def test_whole_photos_of_a_batch_have_one_aspect(twins: Twins) -> None:
    shapes = set()
    for seed in range(12):
        drawn = batch(twins, np.random.default_rng(seed), GRID, 2)
        assert drawn.corner_yx is None
        assert drawn.shares.shape[2:] == (drawn.photos.shape[1] // 8, drawn.photos.shape[2] // 8)
        shapes.add(drawn.photos.shape[1:3])
    assert shapes == {(192, 192), (192, 160)}


def test_targets_are_shares_of_clusters_and_skip_regions_without_one() -> None:
    shares = torch.tensor([0.25, 0.5, 0.25]).view(1, 3, 1, 1)
    found = targets(shares, torch.tensor([[1, NONE, 1]]), 3)
    assert found.flatten().tolist() == [0, 0.5, 0]


def test_cutmix_moves_pixels_and_labels_alike() -> None:
    number = np.arange(3, dtype=np.uint8)  # every pixel and label says which picture it is of
    photos = np.broadcast_to(number[:, None, None, None], (3, 80, 64, 3))
    label = torch.from_numpy(photos[:, ::8, ::8, :1].astype(np.float32))
    mixed, (moved,) = cutmix(np.random.default_rng(0), photos, (label,))
    assert (mixed[:, ::8, ::8, :1] == moved.numpy()).all() and (mixed[:, 7::8, 7::8, :1] == moved.numpy()).all()
    for i in range(3):
        assert set(np.unique(mixed[i])) == {i, (i - 1) % 3}


def test_the_rates_warm_up_and_fall_in_each_phase() -> None:
    found = [train_dinov2.rate(p) for p in (0.0, 0.014, 0.35, 0.6999, 0.7, 0.706, 0.85, 1.0)]
    assert found == pytest.approx([0, 1, 0.5, 0, 0, 0.6, 0.3, 0], abs=2e-3)


def test_soft_cross_entropy_by_hand() -> None:
    logits = np.array([[1.0, 2.0, -1.0], [0.0, 0.0, 3.0]])
    shares = np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 0.5]])
    log = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = -(shares * log).sum() / 1.5
    found = soft_cross_entropy(torch.tensor(logits), torch.tensor(shares))
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_training_goes_on_bit_equal(twins: Twins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_dinov2, "STAGES", ((1.0, 12, 2),))
    shares = 0.1, 0.6, 0.8  # both phases
    straight = Run(twins.photos[:, 0], tmp_path / "none.pt")
    losses = [straight.advance(twins, progress) for progress in shares]
    first = Run(twins.photos[:, 0], tmp_path / "dinov2.pt")
    assert [first.advance(twins, progress) for progress in shares[:2]] == losses[:2]
    first.save(tmp_path)
    second = Run(twins.photos[:, 0], tmp_path / "dinov2.pt")
    assert second.step == 2 and second.advance(twins, shares[2]) == losses[2]
    pairs = zip(straight.average.parameters(), second.average.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_shipped_weights_tell_the_classes() -> None:
    """By nearest class mean, from the patches of a few scenes, without any training."""
    folder = Path(dino_model.__file__).parent / "weights"
    view = {"size_px": 192, "height_px": 0, "window_px": 0, "stride_px": 0, "layers": (-1,), "join": "concatenate"}
    config = SimpleNamespace(name="dinov2.json", weights="dinov2.safetensors", sha256="", **view)
    encoder = load_timm(config, folder, "cpu", "bfloat16")
    rows, truth = probe.patches(encoder, [draw(0, i, "train") for i in range(16)])
    means = torch.stack([rows[truth == c].mean(0) for c in range(len(CLASSES))])
    asked, expected = probe.patches(encoder, [draw(0, i, "eval") for i in range(6)])
    found = torch.cdist(asked, means).argmin(1)
    assert (found == expected).float().mean() > 0.8


def test_class_iou_by_hand() -> None:
    iou = probe.class_iou(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1]))
    assert iou[0] == 0.5 and iou[1] == pytest.approx(2 / 3) and (iou[2:] == 0).all()
