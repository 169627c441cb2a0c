"""evaluate's figures beside another package's, on predictions that are kept in outside_scores.npz with its answers.

`python -m tests.fmbseg_jax.reporting.test_outside_metric`, where scikit-learn is installed, writes the file anew.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fmbseg_jax.reporting.evaluation import Tally
from fmbseg_jax.reporting.readings import HEAD
from labelgen.labels.scores import scores

FILE = Path(__file__).with_name("outside_scores.npz")
CLASSES, NOTHING = 7, 255
NAMES = [f"class {c}" for c in range(CLASSES)]


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(FILE) as file:
        return dict(file)


@pytest.fixture(scope="module")
def tally(recorded: dict[str, np.ndarray]) -> Tally:
    """As evaluate counts: truth -1 where it is not annotated, predictions beyond the classes where there is none."""
    counted = Tally(CLASSES)
    for i, (truth, said) in enumerate(zip(recorded["truth"], recorded["prediction"], strict=True)):
        counted.add(i, f"p{i}", np.where(truth == NOTHING, -1, truth.astype(int)), {HEAD: said.astype(np.uint16)})
    return counted.of_all_hosts()


def test_the_matrix_is_scikit_learns(recorded: dict[str, np.ndarray], tally: Tally) -> None:
    assert np.array_equal(tally.counts[HEAD], recorded["confusion_matrix"][:CLASSES])


def test_the_figures_are_scikit_learns(recorded: dict[str, np.ndarray], tally: Tally) -> None:
    found, jaccard = scores(tally.counts[HEAD], NAMES), recorded["jaccard"]
    assert found.per_class["class 6"] is None and np.isnan(jaccard[6]), "in neither truth nor prediction"
    assert found.per_class["class 5"] == jaccard[5] == 0, "only predicted"
    assert [found.per_class[name] for name in NAMES[:6]] == pytest.approx(jaccard[:6], rel=1e-12)
    assert found.miou == pytest.approx(np.nanmean(jaccard), rel=1e-12)
    assert found.pixel_accuracy == pytest.approx(float(recorded["accuracy"]), rel=1e-12)
    assert found.frequency_weighted_iou == pytest.approx(float(recorded["weighted_jaccard"]), rel=1e-12)


def test_each_photos_figures_are_scikit_learns(recorded: dict[str, np.ndarray], tally: Tally) -> None:
    own = np.array([each[HEAD.title] for _, _, each in tally.photos])
    np.testing.assert_allclose(own[:, 0], recorded["photo_miou"], rtol=1e-12)
    np.testing.assert_allclose(own[:, 1], recorded["photo_accuracy"], rtol=1e-12)


def write() -> None:
    """Predictions that are right in six of ten pixels, and what scikit-learn says of them."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 5, (6, 24, 32)).astype(np.uint8)
    prediction = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, 6, truth.shape)).astype(np.uint8)
    prediction[rng.random(truth.shape) < 0.05] = NOTHING
    truth[rng.random(truth.shape) < 0.2] = NOTHING
    whole = said_by_scikit_learn(truth, prediction)
    photos = [said_by_scikit_learn(*pair) for pair in zip(truth, prediction, strict=True)]
    each = {f"photo_{name}": np.array([photo[name] for photo in photos]) for name in ("miou", "accuracy")}
    np.savez_compressed(FILE, truth=truth, prediction=prediction, **whole, **each)


def said_by_scikit_learn(truth: np.ndarray, prediction: np.ndarray) -> dict[str, Any]:
    import sklearn
    from sklearn import metrics

    annotated = truth != NOTHING
    true, said = truth[annotated], np.where(prediction == NOTHING, CLASSES, prediction)[annotated]
    labels = list(range(CLASSES))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that are nowhere
        jaccard = metrics.jaccard_score(true, said, labels=labels, average=None, zero_division=0)
        weighted = metrics.jaccard_score(true, said, labels=labels, average="weighted", zero_division=0)
    jaccard[~np.isin(labels, np.union1d(true, said))] = np.nan
    return {
        "version": sklearn.__version__,
        "confusion_matrix": metrics.confusion_matrix(true, said, labels=[*labels, CLASSES]),
        "jaccard": jaccard,
        "miou": np.nanmean(jaccard),
        "accuracy": metrics.accuracy_score(true, said),
        "weighted_jaccard": weighted,
    }


if __name__ == "__main__":
    write()
