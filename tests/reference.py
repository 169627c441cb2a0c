"""Slow and plain: what fast code is held against."""

import numpy as np


def pixel_logits(
    patches: np.ndarray, prototypes: np.ndarray, word_class: tuple[int, ...], size_hw: tuple[int, int]
) -> np.ndarray:
    """Logits float64 [C, H, W] of patches [h, w, E] by a loop over pixels: half-pixel centres, edges repeated."""
    h, w, _ = patches.shape
    words = patches.astype(np.float64) @ prototypes.T.astype(np.float64)
    logits = np.stack([words[..., np.equal(word_class, c)].max(-1) for c in range(max(word_class) + 1)])
    out = np.zeros((len(logits), *size_hw))
    for i in range(size_hw[0]):
        for j in range(size_hw[1]):
            y = min(max((i + 0.5) * h / size_hw[0] - 0.5, 0), h - 1)
            x = min(max((j + 0.5) * w / size_hw[1] - 0.5, 0), w - 1)
            a, b = int(y), int(x)
            c, d = min(a + 1, h - 1), min(b + 1, w - 1)
            top = logits[:, a, b] * (1 - (x - b)) + logits[:, a, d] * (x - b)
            low = logits[:, c, b] * (1 - (x - b)) + logits[:, c, d] * (x - b)
            out[:, i, j] = top * (1 - (y - a)) + low * (y - a)
    return out


def confusion(truth: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """Counts [C, C], rows truth, by a loop over pixels; truth beyond the classes is not counted."""
    counts = np.zeros((classes, classes), int)
    for true, said in zip(truth.ravel(), prediction.ravel(), strict=True):
        if true < classes:
            counts[true, said] += 1
    return counts
