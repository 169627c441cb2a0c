"""What a tool gets of a picture: by a RUN as the Segmenter says, by a DATA as its labels are under the file's name."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fmbseg_jax.bridges.answers import Answer, answer, colours, open_labeller, package
from fmbseg_jax.inference.segmenter import Segmenter
from labelgen.core.errors import UserError
from labelgen.data.dataset import Dataset
from labelgen.data.records import LabelRow
from labelgen.formats.palette import palette
from tests.worlds import tiny_models, tiny_run
from tests.worlds.tiny_run import picture


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.write(tmp_path_factory.mktemp("run"), tiny_models.write(tmp_path_factory.mktemp("weights")))


def test_a_run_answers_as_the_segmenter(run: Path) -> None:
    labeller, image = open_labeller(run=str(run)), picture(40, 53)
    found, wanted = labeller("any/name.jpg", image), Segmenter.restore(run)(image)
    assert labeller.names == found.names == wanted.names == ("ball", "box") and labeller.complete
    assert np.array_equal(found.label_map, wanted.label_map)
    assert found.confidence == {i: wanted.scores[name] for i, name in enumerate(wanted.names)}
    pieces = found.pieces()
    assert [piece.name for piece in pieces] == ["ball", "box"]
    assert sum(piece.mask.sum() for piece in pieces) == 40 * 53


def test_what_is_not_sure_enough_is_left_out() -> None:
    label_map = np.array([[0, 1], [1, -1]], np.int32)
    found = Answer(("a", "b"), label_map, {0: 0.4, 1: 0.6})
    assert [(piece.name, piece.mask.tolist()) for piece in found.pieces(0.6)] == [("b", [[False, True], [True, False]])]
    assert [piece.name for piece in found.pieces()] == ["a", "b"]


def test_the_background_of_a_threshold_is_a_class_without_a_score(run: Path, tmp_path: Path) -> None:
    labeller = open_labeller(run=str(run), background_threshold=0.6)
    assert labeller.names == ("ball", "box", "background")
    found = labeller("a", picture(40, 53))
    assert found.confidence[2] == 0.0 and (found.label_map == 2).any()
    (tmp_path / "words.txt").write_text("Background: ll\nlid\n")
    assert open_labeller(str(run), words=str(tmp_path / "words.txt"), background_threshold=0.5).names == (
        "Background",
        "lid",
    )


def test_versions_differ_where_answers_may(run: Path, whole: Path) -> None:
    labellers = [
        open_labeller(run=str(run)),
        open_labeller(run=str(run), background_threshold=0.5),
        open_labeller(data=str(whole)),
    ]
    assert len({labeller.version for labeller in labellers}) == 3


def test_the_labels_of_a_data_by_the_name_of_the_file(whole: Path) -> None:
    labeller, reader = open_labeller(data=str(whole)), Dataset.open(whole).label_reader("default", "train")
    row = LabelRow.decode(reader[3])
    height, width = row.label_map.shape
    for name in (f"photos/train/{row.photo_id}.png", f"{row.photo_id}.png", f"1a2b3c4d-{row.photo_id}.png"):
        found = labeller(name, Image.new("RGB", (width, height)))
        assert np.array_equal(np.where(found.label_map < 0, 255, found.label_map), row.label_map)
        for i, confidence in found.confidence.items():
            assert confidence == pytest.approx(row.confidence[row.label_map == i].mean() / 255)
    assert not labeller.complete


def test_pictures_that_are_not_those_of_the_data(whole: Path) -> None:
    labeller = open_labeller(data=str(whole))
    with pytest.raises(UserError, match=r"other.png: belongs to no photo of the labelled splits"):
        labeller("other.png", Image.new("RGB", (4, 4)))
    with pytest.raises(UserError, match=r"003.png: 4 x 4 px, but train/003 was labelled with \d+ x \d+; give the tool"):
        labeller("003.png", Image.new("RGB", (4, 4)))


@pytest.mark.parametrize("given", [{}, {"run": "a", "data": "b"}, {"data": "b", "words": "c"}])
def test_what_the_caller_must_fix(given: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"one of the two|are for a RUN"):
        open_labeller(**given)


def test_colours_are_those_of_the_masks() -> None:
    assert colours(["a", "b"]) == ["#{:02x}{:02x}{:02x}".format(*palette(2)[i]) for i in range(2)]


def test_a_package_that_is_missing_is_named_and_a_broken_one_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="no_such_tool is not installed; pip install this and that"):
        package("no_such_tool.part", "this and that")
    (tmp_path / "broken_tool.py").write_text("import no_such_tool\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError):
        package("broken_tool", "this")


def test_an_answer_of_labels_has_what_is_there() -> None:
    from tests.fmbseg_jax.inference.test_segmenter import segmentation

    found = answer(segmentation())
    assert found.names == ("cat", "sofa", "wall") and sorted(found.confidence) == [0, 1]
    assert found.confidence[0] == pytest.approx(0.6) and found.confidence[1] == pytest.approx(0.5)
