"""The dense variants in float64 numpy, one window at a time, straight from design.md's table of formulas."""

import math
from functools import lru_cache

import numpy as np


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def softmax(scores):
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class Tower:
    """The weights of an open_clip tower's last blocks, float64."""

    def __init__(self, visual, count):
        blocks = list(visual.transformer.resblocks)[-count:]
        self.blocks = [self._numbers(block) for block in blocks]
        self.heads = blocks[-1].attn.num_heads
        self.quick = type(blocks[-1].mlp.gelu).__name__ == "QuickGELU"
        self.tail = self._numbers(visual, ("ln_post.weight", "ln_post.bias", "proj"))

    @staticmethod
    def _numbers(module, names=None):
        return {name: v.double().numpy() for name, v in module.state_dict().items() if not names or name in names}


class Reference:
    """One window in a tower: what goes into each of its blocks, [1 + N, width]."""

    def __init__(self, tower, inputs):
        self.inputs = [x.double().numpy() for x in inputs]
        self.blocks, self.tail, self.heads, self.quick = tower.blocks, tower.tail, tower.heads, tower.quick
        self.known = {}

    @staticmethod
    def norm(x, weights, name):
        y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return y * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def qkv(self, i=-1):
        """Lists by head of q, k, v [1 + N, d] of block i."""
        if i not in self.known:
            w = self.blocks[i]
            packed = self.norm(self.inputs[i], w, "ln_1") @ w["attn.in_proj_weight"].T + w["attn.in_proj_bias"]
            self.known[i] = [np.split(part, self.heads, axis=1) for part in np.split(packed, 3, axis=1)]
        return self.known[i]

    def out(self, heads, i=-1):
        w = self.blocks[i]
        return np.concatenate(heads, 1) @ w["attn.out_proj.weight"].T + w["attn.out_proj.bias"]

    def ffn(self, x):
        w = self.blocks[-1]
        hidden = self.norm(x, w, "ln_2") @ w["mlp.c_fc.weight"].T + w["mlp.c_fc.bias"]
        gate = 1 / (1 + np.exp(-1.702 * hidden)) if self.quick else 0.5 * (1 + np.vectorize(math.erf)(hidden / 2**0.5))
        return (hidden * gate) @ w["mlp.c_proj.weight"].T + w["mlp.c_proj.bias"]

    def project(self, tokens):
        return unit(self.norm(tokens, self.tail, "ln_post") @ self.tail["proj"])


def expected_tokens(name, ref, proxy, grid_hw):
    """[n, width] of one window; proxy: unit features [a, b, D] under it, grid_hw: its N patches; n = N or a b."""
    q, k, v = ref.qkv()
    s = 1 / math.sqrt(q[0].shape[1])
    if name == "maskclip":
        return ref.out(v)[1:]
    if name == "clearclip":
        return ref.out([softmax(s * a @ a.T) @ c for a, c in zip(q, v, strict=True)])[1:]
    if name == "sclip":
        heads = [(softmax(s * a @ a.T) + softmax(s * b @ b.T)) @ c for a, b, c in zip(q, k, v, strict=True)]
        x = ref.inputs[-1] + ref.out(heads)
        return (x + ref.ffn(x))[1:]
    if name == "naclip":
        near = neighbourhood(grid_hw)
        return ref.out([softmax(s * b @ b.T + near) @ c for b, c in zip(k, v, strict=True)])[1:]
    if name == "surgery":
        path = ref.inputs[0].copy()
        for i in range(len(ref.inputs)):
            values = ref.qkv(i)[2]
            path += ref.out([softmax(s * c @ c.T) @ c for c in values], i)
        return path[1:]
    assert name == "proxyclip"
    features = proxy.reshape(-1, proxy.shape[-1])
    similar = features @ features.T
    similar = 3.0 * (similar - 1.2 * similar.mean())
    weight = softmax(np.where(similar < 0, -np.inf, similar))
    return ref.out([weight @ resized(c[1:], grid_hw, proxy.shape[:2]) for c in v])


@lru_cache
def neighbourhood(grid_hw):
    """[1 + N, 1 + N]: Gaussian of the distance in patches with sigma 5; nothing for CLS."""
    h, w = grid_hw
    near = np.zeros((1 + h * w, 1 + h * w))
    for i in range(h * w):
        for j in range(h * w):
            squared = (i // w - j // w) ** 2 + (i % w - j % w) ** 2
            near[i + 1, j + 1] = math.exp(-squared / (2 * 5.0**2))
    return near


def resized(tokens, grid_hw, wanted_hw):
    """[N, d] on grid_hw, bilinear at the centres of the cells of wanted_hw."""
    rows, columns = (hat(have, want) for have, want in zip(grid_hw, wanted_hw, strict=True))
    return np.einsum("ia,jb,abd->ijd", rows, columns, tokens.reshape(*grid_hw, -1)).reshape(-1, tokens.shape[1])


def hat(have, want):
    """[want, have] weights of linear interpolation, edges repeated."""
    weights = np.zeros((want, have))
    for i in range(want):
        at = min(max((i + 0.5) * have / want - 0.5, 0), have - 1)
        low = min(int(at), have - 1)
        weights[i, low] += 1 - (at - low)
        weights[i, min(low + 1, have - 1)] += at - low
    return weights
