"""Detectors: maps of several sizes, and heads whose channels become boxes and classes."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.architectures.build import Builder, Case, image


def conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    """A convolution that keeps the size, its normalisation and a SiLU."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.SiLU())


class Bottleneck(nn.Module):
    """Two convolutions, and the input added."""

    def __init__(self, width: int, first: int, *, add: bool = True) -> None:
        super().__init__()
        self.first, self.second, self.add = conv(width, width, first), conv(width, width, 3), add

    def forward(self, x: Tensor) -> Tensor:
        """Map a map."""
        found = self.second(self.first(x))
        return x + found if self.add else found  # type: ignore[no-any-return]


class C3(nn.Module):
    """YOLOv5's block: two projections, one through bottlenecks, concatenated."""

    def __init__(self, inputs: int, outputs: int, repeat: int, *, add: bool = True) -> None:
        super().__init__()
        half = outputs // 2
        self.left, self.right, self.join = conv(inputs, half), conv(inputs, half), conv(outputs, outputs)
        self.body = nn.Sequential(*[Bottleneck(half, 1, add=add) for _ in range(repeat)])

    def forward(self, x: Tensor) -> Tensor:
        """Map a map."""
        return self.join(torch.cat([self.body(self.left(x)), self.right(x)], 1))  # type: ignore[no-any-return]


class C2f(nn.Module):
    """YOLOv8's block: a projection cut in two, and every bottleneck's output concatenated."""

    def __init__(self, inputs: int, outputs: int, repeat: int, *, add: bool = True) -> None:
        super().__init__()
        half = outputs // 2
        self.enter, self.join = conv(inputs, outputs), conv((2 + repeat) * half, outputs)
        self.body = nn.ModuleList(Bottleneck(half, 3, add=add) for _ in range(repeat))

    def forward(self, x: Tensor) -> Tensor:
        """Map a map."""
        parts = list(self.enter(x).chunk(2, 1))
        for block in self.body:
            parts.append(block(parts[-1]))
        return self.join(torch.cat(parts, 1))  # type: ignore[no-any-return]


class Pyramid(nn.Module):
    """SPPF: the same pooling three times in a row, concatenated."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter, self.leave = conv(width, width // 2), conv(width * 2, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map a map."""
        maps = [self.enter(x)]
        for _ in range(3):
            maps.append(functional.max_pool2d(maps[-1], 5, 1, 2))
        return self.leave(torch.cat(maps, 1))  # type: ignore[no-any-return]


class Yolo(nn.Module):
    """A backbone of strides 8, 16 and 32, a path down and up again over its maps, and a head for each."""

    def __init__(self, block: type[C3 | C2f], head: nn.Module, widths: tuple[int, ...], repeat: int) -> None:
        super().__init__()
        stem, a, b, c, d = widths
        self.stem = nn.Sequential(conv(3, stem, 3, 2), conv(stem, a, 3, 2), block(a, a, repeat))
        self.stage3 = nn.Sequential(conv(a, b, 3, 2), block(b, b, repeat))
        self.stage4 = nn.Sequential(conv(b, c, 3, 2), block(c, c, repeat))
        self.stage5 = nn.Sequential(conv(c, d, 3, 2), block(d, d, repeat), Pyramid(d))
        self.lateral5, self.lateral4 = conv(d, c), conv(c, b)
        self.up4, self.up3 = block(2 * c, c, repeat, add=False), block(2 * b, b, repeat, add=False)
        self.down3, self.down4 = conv(b, b, 3, 2), conv(c, c, 3, 2)
        self.out4, self.out5 = block(2 * b, c, repeat, add=False), block(2 * c, d, repeat, add=False)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """Boxes with scores, over all scales."""
        p3 = self.stage3(self.stem(x))
        p4 = self.stage4(p3)
        top = self.lateral5(self.stage5(p4))
        middle = self.lateral4(self.up4(torch.cat([functional.interpolate(top, scale_factor=2.0), p4], 1)))
        n3 = self.up3(torch.cat([functional.interpolate(middle, scale_factor=2.0), p3], 1))
        n4 = self.out4(torch.cat([self.down3(n3), middle], 1))
        n5 = self.out5(torch.cat([self.down4(n4), top], 1))
        return self.head([n3, n4, n5])  # type: ignore[no-any-return]


class AnchorHead(nn.Module):
    """YOLOv5's head: one convolution for a scale, its channels cut into anchors, decoded on a grid."""

    def __init__(self, widths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.outputs = classes + 5
        self.layers = nn.ModuleList(nn.Conv2d(width, 3 * self.outputs, 1) for width in widths)
        self.anchors: Tensor
        self.register_buffer("anchors", torch.rand(len(widths), 1, 3, 1, 1, 2) * 50 + 10)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """All boxes in a row."""
        found = []
        for layer, x, anchors, stride in zip(self.layers, maps, self.anchors, (8, 16, 32), strict=True):
            batch, _, height, width = x.shape
            y = layer(x).view(batch, 3, self.outputs, height, width).permute(0, 1, 3, 4, 2).contiguous()
            xy, wh, scores = y.sigmoid().split((2, 2, self.outputs - 4), 4)
            place = (xy * 2 + _grid(height, width) - 0.5) * stride
            size = (wh * 2) ** 2 * anchors
            found.append(torch.cat([place, size, scores], 4).view(batch, 3 * height * width, self.outputs))
        return torch.cat(found, 1)


def _grid(height: int, width: int) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([columns, rows], -1).float()


def yolov5(full: bool) -> Case:
    """YOLOv5s: C3 blocks and anchors."""
    widths, classes = ((32, 64, 128, 256, 512), 80) if full else ((16, 16, 24, 32, 48), 6)
    return image(Yolo(C3, AnchorHead(widths[2:], classes), widths, 1), 320 if full else 64)


class DistributionHead(nn.Module):
    """YOLOv8's head: apart for boxes and classes; an edge is the mean of a distribution over sixteen places."""

    def __init__(self, widths: tuple[int, ...], classes: int, *, places: int = 16) -> None:
        super().__init__()
        self.classes, self.places = classes, places
        edge, kind = max(16, widths[0] // 4, places * 4), max(widths[0], min(classes, 100))
        self.boxes = nn.ModuleList(
            nn.Sequential(conv(w, edge, 3), conv(edge, edge, 3), nn.Conv2d(edge, 4 * places, 1)) for w in widths
        )
        self.kinds = nn.ModuleList(
            nn.Sequential(conv(w, kind, 3), conv(kind, kind, 3), nn.Conv2d(kind, classes, 1)) for w in widths
        )
        self.mean = nn.Conv2d(places, 1, 1, bias=False).requires_grad_(False)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Boxes above scores, for all places."""
        rows = []
        for x, boxes, kinds in zip(maps, self.boxes, self.kinds, strict=True):
            rows.append(torch.cat([boxes(x), kinds(x)], 1).flatten(2))
        edges, scores = torch.split(torch.cat(rows, 2), [4 * self.places, self.classes], 1)
        batch, _, cells = edges.shape
        spread = edges.view(batch, 4, self.places, cells).transpose(2, 1).softmax(1)
        before, after = self.mean(spread).view(batch, 4, cells).chunk(2, 1)
        centres = torch.cat([_grid(*x.shape[2:]).flatten(0, 1) + 0.5 for x in maps]).T.unsqueeze(0)
        sizes = [x.shape[2] * x.shape[3] for x in maps]
        strides = torch.cat(
            [torch.full((size,), float(stride)) for size, stride in zip(sizes, (8, 16, 32), strict=True)]
        )
        low, high = centres - before, centres + after
        return torch.cat([torch.cat([(low + high) / 2, high - low], 1) * strides, scores.sigmoid()], 1)


def yolov8(full: bool) -> Case:
    """YOLOv8n: C2f blocks and no anchors."""
    if full:
        widths = (16, 32, 64, 128, 256)
        return image(Yolo(C2f, DistributionHead(widths[2:], 80), widths, 1), 320)
    widths = (16, 16, 16, 24, 32)
    return image(Yolo(C2f, DistributionHead(widths[2:], 6, places=8), widths, 2), 64)


class Ssd(nn.Module):
    """SSD: classes and boxes from maps of several sizes, channels last, in a row."""

    def __init__(self, widths: tuple[int, ...], classes: int, anchors: int = 4) -> None:
        super().__init__()
        self.classes = classes
        self.stem = nn.Sequential(conv(3, widths[0], 3, 2), conv(widths[0], widths[0], 3, 2))
        self.stages = nn.ModuleList(
            nn.Sequential(conv(a, b // 2), conv(b // 2, b, 3, 2)) for a, b in itertools.pairwise(widths)
        )
        self.scores = nn.ModuleList(nn.Conv2d(w, anchors * classes, 3, 1, 1) for w in widths)
        self.boxes = nn.ModuleList(nn.Conv2d(w, anchors * 4, 3, 1, 1) for w in widths)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities of classes, and boxes."""
        maps = [self.stem(x)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        rows = [
            [layer(m).permute(0, 2, 3, 1).reshape(m.shape[0], -1, last) for layer, m in zip(layers, maps, strict=True)]
            for layers, last in ((self.scores, self.classes), (self.boxes, 4))
        ]
        return torch.cat(rows[0], 1).softmax(-1), torch.cat(rows[1], 1)


def ssd_head(full: bool) -> Case:
    """A detector's heads over several scales."""
    network = Ssd((256, 512, 512, 256), 81) if full else Ssd((24, 32, 48), 6)
    return image(network, 300 if full else 64)._replace(outputs=("scores", "boxes"))


NETWORKS: dict[str, Builder] = {
    "yolov5": yolov5,
    "yolov8": yolov8,
    "ssd_head": ssd_head,
}
