import inspect

import pytest
import torch

from configs.default import get_config
from labelgen.core.errors import UserError
from labelgen.models import sam, weight_files
from labelgen.models.libraries import SamAutomaticMaskGenerator, sam_model_registry
from labelgen.models.sam import RELEASES, Release, weight_file
from labelgen.models.weight_files import find
from tests.worlds import tiny_models

VIT_B = "sam_vit_b_01ec64.pth"


@pytest.fixture
def config():
    fields = get_config().sam
    fields.update(name="vit_b", weights=VIT_B)
    return fields


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A folder that stands in for Meta's, with a small vit_b in it; vit_b itself is too large for a test."""
    folder = tmp_path / "published"
    folder.mkdir()
    torch.save(tiny_models.sam_model().state_dict(), folder / VIT_B)
    release = Release(VIT_B, weight_files.digest(folder / VIT_B), folder.as_uri() + "/")
    monkeypatch.setitem(RELEASES, "vit_b", release)
    monkeypatch.setitem(sam_model_registry, "vit_b", tiny_models.sam_model)
    return folder


def test_a_file_that_is_not_there_is_fetched_once_and_built_as_the_official_model(published, tmp_path, config):
    found = find(weight_file(config, tmp_path / "weights"))
    assert found == tmp_path / "weights" / VIT_B and found.read_bytes() == (published / VIT_B).read_bytes()
    (published / VIT_B).unlink()
    assert sam.load_sam(config, tmp_path / "weights", "cpu", "float32").input_px == 64


def test_a_download_that_was_cut_off_is_not_kept(published, tmp_path, config):
    (published / VIT_B).write_bytes((published / VIT_B).read_bytes()[:-1])
    with pytest.raises(
        UserError, match=rf"{VIT_B}: no such weight file.*sha256 is .* is wanted: .*; download it from file:.*{VIT_B}"
    ):
        find(weight_file(config, tmp_path / "weights"))
    assert [path.name for path in (tmp_path / "weights").iterdir()] == [f"{VIT_B}.wrong"]


def test_another_file_under_the_official_name_is_refused(published, tmp_path, config):
    (tmp_path / VIT_B).write_bytes(b"abc")
    message = (
        rf"{VIT_B}: is not the official file: sha256 is ba7816bf.*, not {RELEASES['vit_b'].sha256}; fetch it again"
    )
    with pytest.raises(UserError, match=message):
        find(weight_file(config, tmp_path))


def test_ones_own_weights_have_their_own_digest_or_another_name(tmp_path, config):
    (tmp_path / VIT_B).write_bytes(b"abc")
    config.sha256 = weight_files.digest(tmp_path / VIT_B)
    assert find(weight_file(config, tmp_path)) == tmp_path / VIT_B
    config.sha256 = "00ff"
    with pytest.raises(UserError, match=r"sha256 is ba7816bf.*, but 00ff is wanted"):
        find(weight_file(config, tmp_path))
    (tmp_path / VIT_B).rename(tmp_path / "mine.pth")
    config.update(sha256="", weights="mine.pth")
    assert find(weight_file(config, tmp_path)) == tmp_path / "mine.pth"


@pytest.mark.parametrize(("name", "host"), [("vit_l", "dl.fbaipublicfiles.com"), ("mobile_sam", "github.com/Chaoning")])
def test_a_file_that_cannot_be_had_says_what_to_get_from_where(tmp_path, config, monkeypatch, name, host):
    def offline(*args, **kwargs):
        raise OSError("offline")

    monkeypatch.setattr(sam, "download", offline)
    file = RELEASES[name].file
    config.update(name=name, weights=file)
    with pytest.raises(
        UserError, match=rf"{file}: no such.*offline\); download it from https://{host}.*{file} and save"
    ):
        find(weight_file(config, tmp_path))
    config.weights = "mine.pth"
    with pytest.raises(
        UserError, match=rf"mine\.pth: no such.*; download it from https://{host}.*{file} and save it as"
    ):
        find(weight_file(config, tmp_path))


def test_the_file_of_another_model_is_named_with_the_right_one(tmp_path, config):
    config.weights = "sam_vit_h_4b8939.pth"
    message = (
        "sam.weights = 'sam_vit_h_4b8939.pth' is the file of vit_h, but sam.name = 'vit_b'; "
        "set sam.weights = 'sam_vit_b_01ec64.pth', or sam.name = 'vit_h'"
    )
    with pytest.raises(UserError, match=message):
        sam.load_sam(config, tmp_path, "cpu", "float32")


def test_weights_of_another_model_under_ones_own_name_say_which_file_fits(published, tmp_path, config):
    torch.save(torch.nn.Linear(2, 3).state_dict(), tmp_path / "mine.pth")
    config.weights = "mine.pth"
    with pytest.raises(
        UserError, match=rf"mine\.pth: are the weights of another model than vit_b, whose file is {VIT_B} "
    ):
        sam.load_sam(config, tmp_path, "cpu", "float32")


@pytest.mark.parametrize(("name", "count"), [("vit_b", 93_735_472), ("vit_l", 312_342_832), ("vit_h", 641_090_608)])
def test_the_official_models_have_as_many_parameters_as_published(name, count):
    with torch.device("meta"):
        model = sam_model_registry[name]()
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert model.image_encoder.img_size == 1024 and model.mask_threshold == 0


def test_the_default_config_is_the_official_default():
    config = get_config().sam
    assert sam_model_registry[config.name] is sam_model_registry["default"]
    assert config.weights == RELEASES[config.name].file
    official = inspect.signature(SamAutomaticMaskGenerator).parameters
    ours = {
        "points_per_side": config.points_per_side,
        "pred_iou_thresh": config.pred_iou_threshold,
        "stability_score_thresh": config.stability_threshold,
        "stability_score_offset": sam.STABILITY_OFFSET,
        "box_nms_thresh": config.nms_threshold,
        "crop_n_layers": 0,
        "min_mask_region_area": 0,
    }
    assert ours == {name: official[name].default for name in ours}
