"""Dense prediction and generation: networks that put what they split together again."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.architectures.build import Builder, Case, Options, image, library


class UNet(nn.Module):
    """Down and up again, with what was seen on the way down concatenated."""

    def __init__(self, widths: tuple[int, ...], classes: int, *, transposed: bool) -> None:
        super().__init__()
        self.down = nn.ModuleList(_double(a, b) for a, b in zip((3, *widths), widths, strict=False))
        pairs = list(zip(widths[::-1], widths[-2::-1], strict=False))
        self.up = nn.ModuleList(_enlarge(a, b, transposed=transposed) for a, b in pairs)
        self.join = nn.ModuleList(_double(2 * b, b) for _, b in pairs)
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """A class for each pixel."""
        seen = []
        for number, stage in enumerate(self.down):
            x = stage(functional.max_pool2d(x, 2) if number else x)
            seen.append(x)
        for up, join, skip in zip(self.up, self.join, seen[-2::-1], strict=True):
            x = join(torch.cat([skip, up(x)], 1))
        return self.head(x)  # type: ignore[no-any-return]


def _double(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (inputs, outputs):
        layers += [nn.Conv2d(width, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


def _enlarge(inputs: int, outputs: int, *, transposed: bool) -> nn.Module:
    if transposed:
        return nn.ConvTranspose2d(inputs, outputs, 2, 2)
    return nn.Sequential(nn.Upsample(scale_factor=2.0, mode="bilinear"), nn.Conv2d(inputs, outputs, 1))


def unet(full: bool) -> Case:
    """U-Net with transposed convolutions."""
    if full:
        return image(UNet((64, 128, 256, 512, 1024), 2, transposed=True), 256, spatial=True)
    return image(UNet((16, 24, 32), 4, transposed=True), 32, spatial=True)


def unet_bilinear(full: bool) -> Case:
    """U-Net with interpolation."""
    widths = (64, 128, 256, 512, 1024) if full else (16, 24, 32)
    return image(UNet(widths, 4, transposed=False), 256 if full else 32, spatial=True)


class HighResolution(nn.Module):
    """HRNet with the head for segmentation: all resolutions at the highest, concatenated."""

    def __init__(self, backbone: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Sequential(
            nn.Conv2d(width, width, 1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, classes, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """A class for each fourth pixel."""
        maps = self.backbone(x)
        first, *rest = maps
        same = [functional.interpolate(m, size=first.shape[2:], mode="bilinear") for m in rest]
        return self.head(torch.cat([first, *same], 1))  # type: ignore[no-any-return]


def hrnet(full: bool) -> Case:
    """HRNet: branches of several resolutions, each of which adds all others."""
    hrnet = library("timm.models.hrnet")

    small: Options = {"stem_width": 16}
    for stage, (widths, kind) in enumerate(
        [((16,), "BOTTLENECK"), ((16, 24), "BASIC"), ((16, 24, 32), "BASIC"), ((16, 24, 32, 40), "BASIC")], 1
    ):
        small[f"stage{stage}"] = {
            "num_modules": 1,
            "num_branches": len(widths),
            "block_type": kind,
            "num_blocks": (1,) * len(widths),
            "num_channels": widths,
            "fuse_method": "SUM",
        }
    config = hrnet.cfg_cls["hrnet_w18"] if full else small
    backbone = hrnet.HighResolutionNetFeatures(dict(config), feature_location="", out_indices=(1, 2, 3, 4))
    return image(HighResolution(backbone, sum(config["stage4"]["num_channels"]), 8), 224 if full else 64)


class Residual(nn.Module):
    """Two convolutions, scaled and added."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1), nn.ReLU(), nn.Conv2d(width, width, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map a map."""
        return x + 0.3 * self.body(x)  # type: ignore[no-any-return]


class SuperResolution(nn.Module):
    """EDSR: residual blocks, channels that become pixels, and the enlarged image added."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, width, 3, 1, 1)
        self.body = nn.Sequential(*[Residual(width) for _ in range(blocks)], nn.Conv2d(width, width, 3, 1, 1))
        up = [nn.Conv2d(width, 4 * width, 3, 1, 1), nn.PixelShuffle(2)]
        last = [nn.Conv2d(width, 12, 3, 1, 1), nn.PixelShuffle(2)]
        self.tail = nn.Sequential(*up, *last)

    def forward(self, x: Tensor) -> Tensor:
        """The image four times as wide and as high."""
        found = self.head(x)
        return self.tail(found + self.body(found)) + functional.interpolate(x, scale_factor=4.0)  # type: ignore[no-any-return]


def pixelshuffle_sr(full: bool) -> Case:
    """Super-resolution by PixelShuffle, twice."""
    return image(SuperResolution(64, 16) if full else SuperResolution(16, 2), 64 if full else 16, spatial=True)


class TimedBlock(nn.Module):
    """Two convolutions after group normalisation, with the time step's embedding added between."""

    def __init__(self, inputs: int, outputs: int, time: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(8, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, 1, 1))
        self.time = nn.Sequential(nn.SiLU(), nn.Linear(time, outputs))
        self.second = nn.Sequential(nn.GroupNorm(8, outputs), nn.SiLU(), nn.Conv2d(outputs, outputs, 3, 1, 1))
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map a map."""
        found = self.first(x) + self.time(time)[:, :, None, None]
        return self.skip(x) + self.second(found)  # type: ignore[no-any-return]


class Attend(nn.Module):
    """Attention of separate projections, from one sequence to the same or another."""

    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(w, width, bias=False) for w in (width, context, context))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Mix by similarity."""
        q, k, v = (
            layer(y).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, y in ((self.q, x), (self.k, context), (self.v, context))
        )
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class SpatialTransformer(nn.Module):
    """Pixels as tokens: attention to themselves, to a text, and a gated feed-forward."""

    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.norm, self.enter, self.leave = (
            nn.GroupNorm(8, width),
            nn.Conv2d(width, width, 1),
            nn.Conv2d(width, width, 1),
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.own, self.cross = Attend(width, width, heads), Attend(width, context, heads)
        self.gated, self.last = nn.Linear(width, 4 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Map a map."""
        tokens = self.enter(self.norm(x)).flatten(2).transpose(1, 2)
        normed = self.norms[0](tokens)
        tokens = tokens + self.own(normed, normed)
        tokens = tokens + self.cross(self.norms[1](tokens), context)
        value, gate = self.gated(self.norms[2](tokens)).chunk(2, -1)
        tokens = tokens + self.last(value * functional.gelu(gate))
        return x + self.leave(tokens.transpose(1, 2).reshape(x.shape))  # type: ignore[no-any-return]


class DiffusionUNet(nn.Module):
    """The denoiser of a latent diffusion model with two resolutions."""

    def __init__(self, width: int, context: int, heads: int, channels: int = 4) -> None:
        super().__init__()
        self.width, time, wide = width, 2 * width, 2 * width
        self.embed = nn.Sequential(nn.Linear(width, time), nn.SiLU(), nn.Linear(time, time))
        self.enter = nn.Conv2d(channels, width, 3, 1, 1)
        self.down1, self.see1 = TimedBlock(width, width, time), SpatialTransformer(width, context, heads)
        self.shrink = nn.Conv2d(width, width, 3, 2, 1)
        self.down2 = TimedBlock(width, wide, time)
        self.middle1, self.see2 = TimedBlock(wide, wide, time), SpatialTransformer(wide, context, heads)
        self.up2 = TimedBlock(2 * wide, wide, time)
        self.grow = nn.Conv2d(wide, width, 3, 1, 1)
        self.up1, self.see3 = TimedBlock(2 * width, width, time), SpatialTransformer(width, context, heads)
        self.leave = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, channels, 3, 1, 1))

    def forward(self, sample: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        """The noise in a sample."""
        half = self.width // 2
        angles = timestep[:, None].float() * torch.exp(-math.log(10_000) * torch.arange(half) / half)
        time = self.embed(torch.cat([angles.sin(), angles.cos()], -1))
        first = self.see1(self.down1(self.enter(sample), time), context)
        second = self.down2(self.shrink(first), time)
        x = self.see2(self.middle1(second, time), context)
        x = self.up2(torch.cat([x, second], 1), time)
        x = self.grow(functional.interpolate(x, scale_factor=2.0))
        return self.leave(self.see3(self.up1(torch.cat([x, first], 1), time), context))  # type: ignore[no-any-return]


def diffusion_unet(full: bool) -> Case:
    """Stable diffusion's denoiser in small: group normalisation, time steps, attention to a text."""
    network = DiffusionUNet(320, 768, 8) if full else DiffusionUNet(32, 24, 4)
    size, context = (32, torch.randn(2, 77, 768)) if full else (8, torch.randn(2, 6, 24))
    inputs = {"sample": torch.randn(2, 4, size, size), "timestep": torch.tensor([3, 950]), "context": context}
    axes = {
        "sample": {0: "batch", 2: "height", 3: "width"},
        "timestep": {0: "batch"},
        "context": {0: "batch", 1: "words"},
    }
    return Case(network, inputs, axes)


NETWORKS: dict[str, Builder] = {
    "unet": unet,
    "unet_bilinear": unet_bilinear,
    "hrnet": hrnet,
    "pixelshuffle_sr": pixelshuffle_sr,
    "diffusion_unet": diffusion_unet,
}
