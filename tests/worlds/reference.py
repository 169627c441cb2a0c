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


def class_scores(z: np.ndarray, prototypes: np.ndarray, word_class: tuple[int, ...]) -> np.ndarray:
    """The best word's cosine, float64 [..., C]."""
    words = z @ prototypes.T
    members = [[k for k, of in enumerate(word_class) if of == c] for c in range(max(word_class) + 1)]
    return np.stack([words[..., ks].max(-1) for ks in members], -1)


def cross_entropy(scores: np.ndarray, t: np.ndarray, weights: np.ndarray, temperature: float) -> tuple[float, float]:
    """(total, weight) by a loop over patches [..., C]."""
    total = weight = 0.0
    for row, shares in zip(scores.reshape(-1, scores.shape[-1]), t.reshape(-1, t.shape[-1]), strict=True):
        log_sum = np.log(sum(np.exp(s / temperature) for s in row))
        for c, share in enumerate(shares):
            total -= share * weights[c] * (row[c] / temperature - log_sum)
            weight += share * weights[c]
    return total, weight


def supcon(
    z: np.ndarray,
    scores: np.ndarray,
    t: np.ndarray,
    weights: np.ndarray,
    sample: np.ndarray,
    prototype_weight: float,
    temperature: float,
) -> tuple[float, float]:
    """(total, weight) by a loop over the patches of z [B, n, E], contrasted with those at sample [B, s]."""
    total = weight = 0.0
    sampled = [(b, int(n)) for b in range(len(z)) for n in sample[b] if t[b, n].sum() > 0]
    for b in range(z.shape[0]):
        for i in range(z.shape[1]):
            y, mass = t[b, i].argmax(), t[b, i].sum()
            others = [q for q in sampled if q != (b, i)]
            similarity = {q: z[b, i] @ z[q] / temperature for q in others}
            prototypes = scores[b, i] / temperature
            log_sum = np.log(np.exp(prototypes).sum() + sum(np.exp(s) for s in similarity.values()))
            positives = [q for q in others if t[q].argmax() == y]
            inner = prototype_weight * (prototypes[y] - log_sum) + sum(similarity[q] - log_sum for q in positives)
            total -= mass * weights[y] * inner / (prototype_weight + len(positives))
            weight += mass * weights[y]
    return total, weight


def band_counts(truth: np.ndarray, prediction: np.ndarray, classes: int, depth: int) -> np.ndarray:
    """Boundary IoU's counts [3, C] (both bands, truth's, the prediction's) by a loop over pixels and their windows."""
    known, (height, width) = (truth >= 0) & (truth < classes), truth.shape
    counts = np.zeros((3, classes), int)
    for y, x in zip(*np.nonzero(known), strict=True):
        inside = y >= depth and x >= depth and y + depth < height and x + depth < width
        window = np.s_[max(0, y - depth) : y + depth + 1, max(0, x - depth) : x + depth + 1]
        true, said = (not inside or bool((m[window][known[window]] != m[y, x]).any()) for m in (truth, prediction))
        if true:
            counts[1, truth[y, x]] += 1
        if said and 0 <= prediction[y, x] < classes:
            counts[2, prediction[y, x]] += 1
        if true and said and truth[y, x] == prediction[y, x]:
            counts[0, truth[y, x]] += 1
    return counts
