"""MobileSAM's image encoder as its paper's code has it: the keys and shapes of its release file by rule, random weights
of them, and the forward pass written out in plain torch on those keys (arXiv:2306.14289; TinyViT: arXiv:2207.10666)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F

Shapes = dict[str, tuple[int, ...]]


class Sizes(NamedTuple):
    """Of the four stages; the first is convolutional and has no heads or windows."""

    dims: tuple[int, ...] = (64, 128, 160, 320)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (2, 4, 5, 10)
    windows: tuple[int, ...] = (7, 7, 14, 7)
    channels: int = 256
    classes: int = 1000


def conv_norm(name: str, cout: int, cin: int, side: int) -> Shapes:
    norm = {f"{name}.bn.{key}": (cout,) for key in ("weight", "bias", "running_mean", "running_var")}
    return {f"{name}.c.weight": (cout, cin, side, side), **norm, f"{name}.bn.num_batches_tracked": ()}


def affine(name: str, *weight: int) -> Shapes:
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def conv_block(name: str, dim: int) -> Shapes:
    wide = 4 * dim
    sizes = ((wide, dim, 1), (wide, 1, 3), (dim, wide, 1))
    return {k: v for i, size in enumerate(sizes, 1) for k, v in conv_norm(f"{name}.conv{i}", *size).items()}


def block(name: str, dim: int, heads: int, window: int) -> Shapes:
    return {
        f"{name}.attn.attention_biases": (heads, window**2),
        **affine(f"{name}.attn.norm", dim),
        **affine(f"{name}.attn.qkv", 3 * dim, dim),
        **affine(f"{name}.attn.proj", dim, dim),
        **affine(f"{name}.mlp.norm", dim),
        **affine(f"{name}.mlp.fc1", 4 * dim, dim),
        **affine(f"{name}.mlp.fc2", dim, 4 * dim),
        **conv_norm(f"{name}.local_conv", dim, 1, 3),
    }


def merging(name: str, dim: int, out: int) -> Shapes:
    return {
        **conv_norm(f"{name}.conv1", out, dim, 1),
        **conv_norm(f"{name}.conv2", out, 1, 3),
        **conv_norm(f"{name}.conv3", out, out, 1),
    }


def release_shapes(sizes: Sizes) -> Shapes:
    """Key -> shape of the image encoder in the release file, without the prefix `image_encoder.`."""
    dims, last, channels = sizes.dims, sizes.dims[-1], sizes.channels
    shapes = {
        **conv_norm("patch_embed.seq.0", dims[0] // 2, 3, 3),
        **conv_norm("patch_embed.seq.2", dims[0], dims[0] // 2, 3),
    }
    for stage, depth in enumerate(sizes.depths):
        for i in range(depth):
            name = f"layers.{stage}.blocks.{i}"
            attention = (dims[stage], sizes.heads[stage], sizes.windows[stage])
            shapes |= block(name, *attention) if stage else conv_block(name, dims[0])
        if stage < 3:
            shapes |= merging(f"layers.{stage}.downsample", dims[stage], dims[stage + 1])
    shapes |= affine("norm_head", last) | affine("head", sizes.classes, last)
    shapes |= {"neck.0.weight": (channels, last, 1, 1), "neck.2.weight": (channels, channels, 3, 3)}
    return shapes | affine("neck.1", channels) | affine("neck.3", channels)


def random_state(shapes: Shapes, seed: int = 0) -> dict[str, torch.Tensor]:
    """float64 weights under which every tensor matters: means and variances of the norms too."""
    rng = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in shapes.items():
        value = torch.randn(shape, generator=rng, dtype=torch.float64)
        if key.endswith("running_var") or (key.endswith("weight") and len(shape) == 1):
            state[key] = (0.3 * value).exp()
        elif key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(7)
        else:
            state[key] = value * (1 if "attention_biases" in key else 1.5 / max(1, value[:1].numel()) ** 0.5)
    return state


class Reference:
    """The encoder's forward pass on a release file's image encoder."""

    def __init__(self, state: dict[str, torch.Tensor], sizes: Sizes) -> None:
        self.state, self.sizes = state, sizes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """pixels [1, 3, s, s] -> [1, channels, s / 16, s / 16]."""
        x = F.gelu(self.conv_norm("patch_embed.seq.0", x, stride=2))
        x = self.conv_norm("patch_embed.seq.2", x, stride=2)
        for stage, depth in enumerate(self.sizes.depths):
            for i in range(depth):
                x = (self.block if stage else self.conv_block)(f"layers.{stage}.blocks.{i}", x, stage)
            if stage < 3:
                x = self.merging(f"layers.{stage}.downsample", x, 1 if stage == 2 else 2)
        x = self.channel_norm("neck.1", F.conv2d(x, self.state["neck.0.weight"]))
        return self.channel_norm("neck.3", F.conv2d(x, self.state["neck.2.weight"], padding=1))

    def conv_norm(self, name: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        weight = self.state[f"{name}.c.weight"]
        x = F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, groups=x.shape[1] // weight.shape[1])
        mean, var, gain, bias = (
            self.state[f"{name}.bn.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * gain + bias

    def channel_norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-6).sqrt()
        return x * self.state[f"{name}.weight"][:, None, None] + self.state[f"{name}.bias"][:, None, None]

    def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        return x * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def conv_block(self, name: str, x: torch.Tensor, stage: int) -> torch.Tensor:
        y = F.gelu(self.conv_norm(f"{name}.conv1", x))
        y = F.gelu(self.conv_norm(f"{name}.conv2", y))
        return F.gelu(x + self.conv_norm(f"{name}.conv3", y))

    def merging(self, name: str, x: torch.Tensor, stride: int) -> torch.Tensor:
        x = F.gelu(self.conv_norm(f"{name}.conv1", x))
        return self.conv_norm(f"{name}.conv3", F.gelu(self.conv_norm(f"{name}.conv2", x, stride)))

    def block(self, name: str, x: torch.Tensor, stage: int) -> torch.Tensor:
        """Attention in windows, a depthwise convolution, an MLP. Borders are filled up with zeros before the norm."""
        window = self.sizes.windows[stage]
        height, width = x.shape[-2:]
        filled = F.pad(x, (0, -width % window, 0, -height % window))
        attended = torch.zeros_like(filled)
        for y0 in range(0, filled.shape[2], window):
            for x0 in range(0, filled.shape[3], window):
                part = (0, slice(None), slice(y0, y0 + window), slice(x0, x0 + window))
                tokens = self.attention(f"{name}.attn", filled[part].flatten(1).T, self.sizes.heads[stage], window)
                attended[part] = tokens.T.unflatten(1, (window, window))
        x = self.conv_norm(f"{name}.local_conv", x + attended[:, :, :height, :width])
        y = self.norm(f"{name}.mlp.norm", x.movedim(1, -1))
        y = self.linear(f"{name}.mlp.fc2", F.gelu(self.linear(f"{name}.mlp.fc1", y)))
        return x + y.movedim(-1, 1)

    def attention(self, name: str, tokens: torch.Tensor, heads: int, window: int) -> torch.Tensor:
        """[n, d] of one window in raster order. A bias per head belongs to the distances |Δy|, |Δx| of two tokens: it
        is number |Δy| * window + |Δx| of the table."""
        y, x = torch.arange(window).repeat_interleave(window), torch.arange(window).repeat(window)
        number = (y[:, None] - y).abs() * window + (x[:, None] - x).abs()
        qkv = self.linear(f"{name}.qkv", self.norm(f"{name}.norm", tokens)).chunk(heads, 1)  # heads, then q, k, v
        out = []
        for head, biases in zip(qkv, self.state[f"{name}.attention_biases"], strict=True):
            q, k, v = head.chunk(3, 1)
            out.append((q @ k.T / q.shape[1] ** 0.5 + biases[number]).softmax(1) @ v)
        return self.linear(f"{name}.proj", torch.cat(out, 1))
