"""This project's models once more, in PyTorch, for torch_step.py: the same layers, shapes and operations.

A trunk takes tokens `[batch, tokens, width]` and `real`, `[batch, tokens]`, false at padding, or None.
"""

import math

import torch
from torch import nn
from torch.nn import functional

NORM_EPSILON = 1e-6


def positions(grid, width):
    """`[grid * grid, width]`: sines and cosines of the column, then of the row."""
    angles = torch.arange(grid)[:, None] / 10000 ** (torch.arange(width // 4) / (width // 4))
    one = torch.cat([angles.sin(), angles.cos()], 1)
    columns, rows = one[None].expand(grid, -1, -1), one[:, None].expand(-1, grid, -1)
    return torch.cat([columns, rows], 2).reshape(grid * grid, width)


def take(tokens, indices):
    """`[batch, patches, width]` and `[batch, chosen]` to `[batch, chosen, width]`."""
    return tokens.gather(1, indices[:, :, None].expand(-1, -1, tokens.shape[2]))


def mlp(*widths, norms=False):
    """Layers with GELU between them, and LayerNorm before it where asked for."""
    layers = []
    for inputs, outputs in zip(widths, widths[1:]):
        layers += [nn.Linear(inputs, outputs), *([nn.LayerNorm(outputs)] if norms else []), nn.GELU()]
    return nn.Sequential(*layers[: -2 if norms else -1])


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.qkv, self.projection = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens, real):
        batch, count, width = tokens.shape
        qkv = self.qkv(tokens).view(batch, count, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mask = None if real is None else real[:, None, None, :]
        heads = functional.scaled_dot_product_attention(*qkv, attn_mask=mask)
        return self.projection(heads.transpose(1, 2).reshape(batch, count, width))


class Block(nn.Module):
    def __init__(self, width, heads, hidden):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=NORM_EPSILON) for _ in range(2))
        self.attention, self.mlp = Attention(width, heads), mlp(width, hidden, width)

    def forward(self, tokens, real):
        tokens = tokens + self.attention(self.norm1(tokens), real)
        return tokens + self.mlp(self.norm2(tokens))


class Transformer(nn.Module):
    """Pre-norm blocks and a last norm."""

    def __init__(self, width, depth, heads, hidden):
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=NORM_EPSILON)

    def forward(self, tokens, real):
        for block in self.blocks:
            tokens = block(tokens, real)
        return self.norm(tokens)


class EnergyTransformer(nn.Module):
    """Descends one energy of attention and memory: `x <- x - alpha * gradient of E at LayerNorm(x)`, in closed form."""

    def __init__(self, width, iterations, heads, memories, alpha, memory):
        super().__init__()
        self.iterations, self.alpha, self.memory = iterations, alpha, memory
        each = width // heads
        self.norm = nn.LayerNorm(width)
        self.queries, self.keys = (nn.Parameter(0.002 * torch.randn(heads, each, width)) for _ in range(2))
        self.sharpness = nn.Parameter(torch.full([heads], 1 / math.sqrt(each)))
        self.patterns = nn.Parameter(0.002 * torch.randn(width, memories))
        self.memory_sharpness = nn.Parameter(torch.ones([]))

    def forward(self, tokens, real):
        for _ in range(self.iterations):
            normed = self.norm(tokens)
            tokens = tokens + self.alpha * (self.of_attention(normed, real) + self.of_memory(normed))
        return tokens

    def of_attention(self, tokens, real):
        """Minus the gradient of `-sum_h 1/beta_h sum_q logsumexp_k(beta_h K Q)`."""
        heads, each, width = self.queries.shape
        batch, count, _ = tokens.shape
        both = torch.cat([self.queries, self.keys]).reshape(2 * heads * each, width)
        projected = functional.linear(tokens, both).view(batch, count, 2, heads, each).permute(2, 0, 3, 1, 4)
        queries, keys = projected
        scores = (queries * self.sharpness[:, None, None]) @ keys.transpose(2, 3)
        if real is not None:
            scores = scores.masked_fill(~real[:, None, None, :], -math.inf)
        shares = scores.softmax(3)
        if real is not None:
            # A padded query would draw on the keys.
            shares = shares * real[:, None, :, None]
        pulls = torch.stack([shares @ keys, shares.transpose(2, 3) @ queries], 1)
        return pulls.permute(0, 3, 1, 2, 4).reshape(batch, count, 2 * heads * each) @ both

    def of_memory(self, tokens):
        """Minus the gradient of `-1/2 sum relu(beta x W)^2`, or of `-1/beta logsumexp(beta x W)`."""
        overlaps = self.memory_sharpness * (tokens @ self.patterns)
        if self.memory == "softmax":
            return overlaps.softmax(2) @ self.patterns.T
        return self.memory_sharpness * (overlaps.relu() @ self.patterns.T)


class PatchEncoder(nn.Module):
    def __init__(self, image, patch, width, trunk, fixed):
        super().__init__()
        self.patch, self.embed, self.trunk = patch, nn.Linear(3 * patch * patch, width), trunk
        self.positions = nn.Parameter(positions(image // patch, width), requires_grad=not fixed)

    def forward(self, images, indices=None, real=None):
        batch, channels, side, _ = images.shape
        grid = side // self.patch
        cut = images.view(batch, channels, grid, self.patch, grid, self.patch).permute(0, 2, 4, 1, 3, 5)
        tokens = cut.reshape(batch, grid * grid, channels * self.patch**2)
        if indices is None:
            return self.trunk(self.embed(tokens) + self.positions, real)
        return self.trunk(self.embed(take(tokens, indices)) + self.positions[indices], real)


class Predictor(nn.Module):
    """Each target block of each sample is a sequence of its own: the context, then a mask token per target patch."""

    def __init__(self, grid, features, width, trunk):
        super().__init__()
        self.embed, self.trunk, self.projection = nn.Linear(features, width), trunk, nn.Linear(width, features)
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.positions = nn.Parameter(positions(grid, width), requires_grad=False)

    def forward(self, encoded, context, context_real, targets, targets_real):
        """`targets` is `[blocks * batch, patches]`, block by block, as is the output."""
        blocks = len(targets) // len(context)
        known = (self.embed(encoded) + self.positions[context]).repeat(blocks, 1, 1)
        real = None
        if context_real is not None:
            real = torch.cat([context_real.repeat(blocks, 1), targets_real], 1)
        tokens = torch.cat([known, self.positions[targets] + self.mask_token], 1)
        return self.projection(self.trunk(tokens, real)[:, context.shape[1] :])


class ConvNextBlock(nn.Module):
    def __init__(self, width, layer_scale):
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm, self.mlp = nn.LayerNorm(width, eps=NORM_EPSILON), mlp(width, 4 * width, width)
        self.scale = nn.Parameter(torch.full([width], layer_scale))

    def forward(self, maps):
        inner = self.mlp(self.norm(self.depthwise(maps).permute(0, 2, 3, 1)))
        return maps + (inner * self.scale).permute(0, 3, 1, 2)


class MapNorm(nn.LayerNorm):
    def forward(self, maps):
        return super().forward(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNext(nn.Module):
    """Images to one vector each: the last map's mean, normalised."""

    def __init__(self, stem, depths, widths, layer_scale):
        super().__init__()
        layers = [nn.Conv2d(3, widths[0], stem, stem), MapNorm(widths[0], eps=NORM_EPSILON)]
        for stage, (depth, width) in enumerate(zip(depths, widths)):
            if stage > 0:
                before = widths[stage - 1]
                layers += [MapNorm(before, eps=NORM_EPSILON), nn.Conv2d(before, width, 2, 2)]
            layers += [ConvNextBlock(width, layer_scale) for _ in range(depth)]
        self.layers, self.norm = nn.Sequential(*layers), nn.LayerNorm(widths[-1], eps=NORM_EPSILON)

    def forward(self, images):
        return self.norm(self.layers(images).mean((2, 3)))


class ShiftPredictor(nn.Module):
    """Features of one view and the way to the other, to that one's features."""

    # Sines and cosines of pi * 2^k times the rotation, for 10 k, and times both translations, for 4 k each.
    ROTATIONS, TRANSLATIONS = 10, 4

    def __init__(self, features, hidden, depth):
        super().__init__()
        told = 2 * (self.ROTATIONS + 2 * self.TRANSLATIONS)
        self.told = nn.Linear(told, features)
        self.layers = mlp(features, *[hidden] * (depth - 1), features, norms=True)

    def forward(self, features, shift):
        """`shift` is `[batch, 3]`: rotation in radians, translation."""
        counts = [self.ROTATIONS, self.TRANSLATIONS, self.TRANSLATIONS]
        angles = [shift[:, axis, None] * math.pi * 2.0 ** torch.arange(count, device=shift.device) for axis, count in enumerate(counts)]
        told = torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], 1)
        return self.layers(features + self.told(functional.gelu(told)))


def inverse(shift):
    """The way back: the translation turned by the opposite angle, and both with the other sign."""
    angle, across, down = shift.unbind(1)
    sine, cosine = angle.sin(), angle.cos()
    return torch.stack([-angle, -(cosine * across + sine * down), -(cosine * down - sine * across)], 1)
