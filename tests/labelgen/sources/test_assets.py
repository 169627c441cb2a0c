"""Real photos in the official layouts, read by the configs that ship: every mask fits its photo and its table."""

import numpy as np
import pytest

from labelgen.core.config import load_config
from labelgen.core.ontology import read_words
from labelgen.labels.scores import lookup
from labelgen.sources.registry import open_source
from tests.worlds.paths import ASSETS, ROOT

PHOTOS = ASSETS / "photos"
pytestmark = pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"no {PHOTOS}; set FMBSEG_ASSETS")

CASES = [  # config, folder, split, its masks there, photos, classes that are and are not among the truth
    ("voc", "voc", "val", "SegmentationClassAug", 25, ("cat", "dog", "person"), ("aeroplane", "train")),
    ("ade20k", "ade20k", "val", "annotations", 15, ("wall", "sky"), ()),
    ("camvid", "camvid", "test", "testannot", 7, ("road", "car", "sky"), ()),
    ("river_water", "water", "photos", "Mask", 20, ("water", "background"), ()),
]


@pytest.mark.parametrize(("name", "folder", "split", "masks", "count", "there", "absent"), CASES)
def test_truth_of_real_photos(name, folder, split, masks, count, there, absent, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    fields = [f"photos.root={PHOTOS / folder}", f"photos.splits.{split}.masks={masks}"]
    config = load_config(f"configs/{name}.py", fields)
    names = read_words(config.ontology).names
    source = open_source(config.photos, split)
    assert len(source.list()) == count and source.classes is not None
    place = lookup(source.classes, names, config.eval.truth)
    found: set[int] = set()
    for photo_id in source.list():
        photo = source.load(photo_id)
        assert photo.label_map is not None and photo.label_map.shape == photo.image.shape[:2]
        values = np.unique(photo.label_map)
        found |= set(place[values[values < 255]].tolist())
    seen = {names[i] for i in found if i >= 0}
    assert set(there) <= seen and not set(absent) & seen
