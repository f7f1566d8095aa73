"""Convolutional classifiers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.architectures.build import Builder, Case, Options, image, library


def resnet18(full: bool) -> Case:
    """ResNet with basic blocks, at some of which the shortcut is projected."""
    resnet = library("timm.models.resnet")

    if full:
        return image(resnet.ResNet(resnet.BasicBlock, (2, 2, 2, 2)), 224, spatial=True)
    return image(
        resnet.ResNet(resnet.BasicBlock, (2, 2, 1, 1), 10, channels=(16, 24, 24, 32), stem_width=16), 64, spatial=True
    )


def resnet50(full: bool) -> Case:
    """ResNet with bottlenecks."""
    resnet = library("timm.models.resnet")

    if full:
        return image(resnet.ResNet(resnet.Bottleneck, (3, 4, 6, 3)), 224, spatial=True)
    return image(resnet.ResNet(resnet.Bottleneck, (2, 2, 1, 1), 10, channels=(16, 16, 24, 24)), 64, spatial=True)


def resnext50(full: bool) -> Case:
    """ResNeXt: bottlenecks with grouped convolutions."""
    resnet = library("timm.models.resnet")

    if full:
        return image(resnet.ResNet(resnet.Bottleneck, (3, 4, 6, 3), cardinality=32, base_width=4), 224)
    return image(
        resnet.ResNet(resnet.Bottleneck, (2, 2, 1, 1), 10, channels=(16, 16, 16, 16), cardinality=4, base_width=32), 64
    )


def res2net50(full: bool) -> Case:
    """Res2Net: a bottleneck split into parts, each of which adds the one before."""
    res2net = library("timm.models.res2net")
    resnet = library("timm.models.resnet")

    parts: Options = {"block_args": {"scale": 4}}
    if full:
        return image(resnet.ResNet(res2net.Bottle2neck, (3, 4, 6, 3), base_width=26, **parts), 224)
    return image(
        resnet.ResNet(res2net.Bottle2neck, (2, 2, 1, 1), 10, channels=(16, 16, 16, 16), base_width=64, **parts), 64
    )


def cspresnet50(full: bool) -> Case:
    """CSPResNet: each stage splits its channels, and joins them at its end."""
    cspnet = library("timm.models.cspnet")

    depth, widths, stem = ((3, 3, 5, 2), (128, 256, 512, 1024), 64) if full else ((2, 2), (32, 48), 16)
    stages = cspnet.CspStagesCfg(
        depth=depth, out_chs=widths, stride=(1, 2), expand_ratio=2.0, bottle_ratio=0.5, cross_linear=True
    )
    config = cspnet.CspModelCfg(
        stem=cspnet.CspStemCfg(out_chs=stem, kernel_size=7, stride=4, pool="max"), stages=stages
    )
    return image(cspnet.CspNet(config, num_classes=1000 if full else 10), 224 if full else 64)


def vgg16_bn(full: bool) -> Case:
    """VGG: convolutions in a row, a flattened map, three linear layers."""
    vgg = library("torchvision.models.vgg")

    if full:
        return image(vgg.VGG(vgg.make_layers(vgg.cfgs["D"], batch_norm=True)), 224)
    network = vgg.VGG(vgg.make_layers([16, 16, "M", 24, 24, "M", 32, 32, "M"], batch_norm=True), init_weights=False)
    network.avgpool = nn.AdaptiveAvgPool2d((2, 2))
    layers = (
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(64, 48),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(48, 10),
    )
    network.classifier = nn.Sequential(*layers)
    return image(network, 32)


def densenet121(full: bool) -> Case:
    """DenseNet: every layer reads what all layers before it wrote."""
    densenet = library("timm.models.densenet")

    if full:
        return image(densenet.DenseNet(), 224, spatial=True)
    return image(densenet.DenseNet(16, (3, 3), 10), 32, spatial=True)


class Branches(nn.Module):
    """Join what several branches read from the same map."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate channels."""
        return torch.cat([branch(x) for branch in self.branches], 1)


def conv(
    inputs: int, outputs: int, kernel: int | tuple[int, int] = 1, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """A convolution that keeps the size, its normalisation and a ReLU."""
    padding = kernel // 2 if isinstance(kernel, int) else (kernel[0] // 2, kernel[1] // 2)
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


def _inception_blocks() -> nn.Sequential:
    """The five kinds of blocks of Inception v3, in order, at small widths."""
    pool = nn.AvgPool2d(3, 1, 1)
    a = Branches(
        conv(32, 16),
        nn.Sequential(conv(32, 16), conv(16, 24, 5)),
        nn.Sequential(conv(32, 16), conv(16, 24, 3), conv(24, 24, 3)),
        nn.Sequential(pool, conv(32, 16)),
    )
    b = Branches(
        conv(80, 24, 3, 2), nn.Sequential(conv(80, 16), conv(16, 24, 3), conv(24, 24, 3, 2)), nn.MaxPool2d(3, 2, 1)
    )
    c = Branches(
        conv(128, 16),
        nn.Sequential(conv(128, 16), conv(16, 16, (1, 7)), conv(16, 24, (7, 1))),
        nn.Sequential(
            conv(128, 16), conv(16, 16, (7, 1)), conv(16, 16, (1, 7)), conv(16, 16, (7, 1)), conv(16, 24, (1, 7))
        ),
        nn.Sequential(pool, conv(128, 16)),
    )
    d = Branches(
        nn.Sequential(conv(80, 16), conv(16, 24, 3, 2)),
        nn.Sequential(conv(80, 16), conv(16, 16, (1, 7)), conv(16, 16, (7, 1)), conv(16, 24, 3, 2)),
        nn.MaxPool2d(3, 2, 1),
    )
    e = Branches(
        conv(128, 16),
        nn.Sequential(conv(128, 24), Branches(conv(24, 16, (1, 3)), conv(24, 16, (3, 1)))),
        nn.Sequential(conv(128, 24), conv(24, 24, 3), Branches(conv(24, 16, (1, 3)), conv(24, 16, (3, 1)))),
        nn.Sequential(pool, conv(128, 16)),
    )
    return nn.Sequential(a, b, c, d, e)


def inception_v3(full: bool) -> Case:
    """Inception v3: branches of several depths, concatenated, also within a branch."""
    if full:
        inception = library("torchvision.models.inception")

        return image(inception.Inception3(aux_logits=False, init_weights=False), 299)
    stem = nn.Sequential(conv(3, 16, 3, 2), conv(16, 32, 3), nn.MaxPool2d(3, 2, 1))
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(96, 10))
    return image(nn.Sequential(stem, _inception_blocks(), *head), 64)


def mobilenet_v1(full: bool) -> Case:
    """MobileNet: depthwise and pointwise convolutions in turns."""
    widths = (
        (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024) if full else (16, 24, 32, 32, 48, 64)
    )
    strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1) if full else (1, 2, 1, 2, 1)
    layers = [conv(3, widths[0], 3, 2)]
    for before, after, stride in zip(widths, widths[1:], strides, strict=False):
        layers += [conv(before, before, 3, stride, groups=before), conv(before, after)]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 1000 if full else 10))
    return image(nn.Sequential(*layers, *head), 224 if full else 32, spatial=True)


def mobilenet_v2(full: bool) -> Case:
    """MobileNetV2: inverted residuals without activation at their ends."""
    mobilenetv2 = library("torchvision.models.mobilenetv2")

    if full:
        return image(mobilenetv2.MobileNetV2(), 224, spatial=True)
    blocks = [[1, 16, 1, 1], [3, 24, 2, 2], [3, 32, 2, 2]]
    return image(mobilenetv2.MobileNetV2(10, inverted_residual_setting=blocks), 32, spatial=True)


def mobilenet_v3(full: bool) -> Case:
    """MobileNetV3: squeeze-and-excitation and hard-swish."""
    torchvision = library("torchvision.models")
    mobilenetv3 = library("torchvision.models.mobilenetv3")

    if full:
        return image(torchvision.mobilenet_v3_large(), 224, spatial=True)
    blocks = [
        mobilenetv3.InvertedResidualConfig(16, 3, 16, 16, False, "RE", 1, 1, 1.0),
        mobilenetv3.InvertedResidualConfig(16, 3, 48, 24, False, "RE", 2, 1, 1.0),
        mobilenetv3.InvertedResidualConfig(24, 3, 64, 24, True, "RE", 1, 1, 1.0),
        mobilenetv3.InvertedResidualConfig(24, 5, 64, 32, True, "HS", 2, 1, 1.0),
        mobilenetv3.InvertedResidualConfig(32, 5, 96, 32, True, "HS", 1, 1, 1.0),
    ]
    return image(mobilenetv3.MobileNetV3(blocks, 128, 10), 32, spatial=True)


def efficientnet_b0(full: bool) -> Case:
    """EfficientNet: inverted residuals, squeeze-and-excitation, SiLU."""
    torchvision = library("torchvision.models")
    efficientnet = library("torchvision.models.efficientnet")

    if full:
        return image(torchvision.efficientnet_b0(), 224)
    blocks = [
        efficientnet.MBConvConfig(1, 3, 1, 16, 16, 1),
        efficientnet.MBConvConfig(4, 3, 2, 16, 24, 2),
        efficientnet.MBConvConfig(4, 5, 2, 24, 32, 2),
    ]
    return image(efficientnet.EfficientNet(blocks, 0.2, num_classes=10, last_channel=128), 32)


def regnet_y(full: bool) -> Case:
    """RegNetY: grouped bottlenecks with squeeze-and-excitation."""
    torchvision = library("torchvision.models")
    regnet = library("torchvision.models.regnet")

    if full:
        return image(torchvision.regnet_y_400mf(), 224)
    return image(regnet.RegNet(regnet.BlockParams([2, 2], [32, 48], [16, 16], [1.0, 1.0], [2, 2], 0.25), 10), 32)


def ghostnet(full: bool) -> Case:
    """GhostNet: half of the channels are made cheaply from the other half, and concatenated."""
    timm = library("timm.models")
    ghostnet = library("timm.models.ghostnet")

    if full:
        return image(timm.ghostnet_100(), 224)
    blocks = [[[3, 32, 16, 0, 1]], [[3, 48, 24, 0, 2]], [[3, 64, 24, 0.25, 1]], [[5, 64, 40, 0.25, 2]]]
    return image(ghostnet.GhostNet(blocks, 10), 32)


class Shuffle(nn.Module):
    """Let groups of channels take turns."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Transpose the channels' groups."""
        batch, channels, height, width = x.shape
        parts = x.reshape(batch, self.groups, channels // self.groups, height, width)
        return parts.transpose(1, 2).reshape(batch, channels, height, width)


class ShuffleUnit(nn.Module):
    """A unit of ShuffleNet v1: grouped convolutions with a shuffle between, added or, at a stride, concatenated."""

    def __init__(self, inputs: int, outputs: int, groups: int, stride: int, *, first: bool = False) -> None:
        super().__init__()
        self.stride = stride
        outputs = outputs - inputs if stride == 2 else outputs
        middle = outputs // 4 if outputs // 4 % groups == 0 else groups * (outputs // 4 // groups + 1)
        self.reduce = conv(inputs, middle, groups=1 if first else groups)
        self.shuffle = Shuffle(groups)
        depthwise = nn.Conv2d(middle, middle, 3, stride, 1, groups=middle, bias=False)
        self.depthwise = nn.Sequential(depthwise, nn.BatchNorm2d(middle))
        self.expand = nn.Sequential(nn.Conv2d(middle, outputs, 1, groups=groups, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map a map."""
        found = self.expand(self.depthwise(self.shuffle(self.reduce(x))))
        if self.stride == 2:
            return functional.relu(torch.cat([functional.avg_pool2d(x, 3, 2, 1), found], 1))
        return functional.relu(x + found)


def shufflenet_v1(full: bool) -> Case:
    """ShuffleNet v1 with three groups: grouped pointwise convolutions and shuffled channels."""
    widths, repeats = ((24, 240, 480, 960), (4, 8, 4)) if full else ((24, 96, 144), (2, 2))
    layers: list[nn.Module] = [conv(3, widths[0], 3, 2), nn.MaxPool2d(3, 2, 1)]
    for before, after, repeat in zip(widths, widths[1:], repeats, strict=False):
        layers.append(ShuffleUnit(before, after, 3, 2, first=before == widths[0]))
        layers += [ShuffleUnit(after, after, 3, 1) for _ in range(repeat - 1)]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 1000 if full else 10))
    return image(nn.Sequential(*layers, *head), 224 if full else 32)


def shufflenet_v2(full: bool) -> Case:
    """ShuffleNet v2: half of the channels pass, both halves are shuffled."""
    shufflenetv2 = library("torchvision.models.shufflenetv2")

    if full:
        return image(shufflenetv2.ShuffleNetV2([4, 8, 4], [24, 116, 232, 464, 1024]), 224)
    return image(shufflenetv2.ShuffleNetV2([2, 2, 2], [16, 32, 48, 64, 64], 10), 64)


def convnext_tiny(full: bool) -> Case:
    """ConvNeXt: depthwise 7x7, normalised over channels last, layer scale."""
    convnext = library("torchvision.models.convnext")

    if full:
        stages = [(96, 192, 3), (192, 384, 3), (384, 768, 9), (768, None, 3)]
        return image(convnext.ConvNeXt([convnext.CNBlockConfig(*stage) for stage in stages]), 224)
    return image(
        convnext.ConvNeXt([convnext.CNBlockConfig(32, 48, 2), convnext.CNBlockConfig(48, None, 2)], num_classes=10), 32
    )


NETWORKS: dict[str, Builder] = {
    "resnet18": resnet18,
    "resnet50": resnet50,
    "vgg16_bn": vgg16_bn,
    "densenet121": densenet121,
    "inception_v3": inception_v3,
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v2": mobilenet_v2,
    "mobilenet_v3": mobilenet_v3,
    "efficientnet_b0": efficientnet_b0,
    "regnet_y": regnet_y,
    "resnext50": resnext50,
    "res2net50": res2net50,
    "cspresnet50": cspresnet50,
    "ghostnet": ghostnet,
    "shufflenet_v1": shufflenet_v1,
    "shufflenet_v2": shufflenet_v2,
    "convnext_tiny": convnext_tiny,
}
