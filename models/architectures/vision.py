"""Vision transformers and what else works on patches."""

from __future__ import annotations

import torch

from models.architectures.build import Builder, Call, Case, Options, image, library


def vit_b16(full: bool) -> Case:
    """The Vision Transformer of torchvision: fused q, k and v in `MultiheadAttention`."""
    vision_transformer = library("torchvision.models.vision_transformer")

    if full:
        return image(vision_transformer.VisionTransformer(224, 16, 12, 12, 768, 3072), 224)
    return image(vision_transformer.VisionTransformer(32, 8, 2, 4, 48, 128, num_classes=10), 32)


def vit_timm(full: bool) -> Case:
    """The Vision Transformer of timm, with averaged patches, layer scale and normalised q and k."""
    vision_transformer = library("timm.models.vision_transformer")

    if full:
        return image(vision_transformer.VisionTransformer(), 224)
    small: Options = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "num_classes": 10}
    return image(vision_transformer.VisionTransformer(global_pool="avg", init_values=1.0, qk_norm=True, **small), 32)


def deit(full: bool) -> Case:
    """DeiT: a class token and a distillation token, whose two heads are averaged."""
    deit = library("timm.models.deit")

    if full:
        return image(deit.VisionTransformerDistilled(embed_dim=384, num_heads=6), 224)
    small: Options = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "num_classes": 10}
    return image(deit.VisionTransformerDistilled(**small), 32)


def swin_torchvision(full: bool) -> Case:
    """Swin of torchvision: shifted windows by Roll, position biases through an index table, merged patches."""
    swin_transformer = library("torchvision.models.swin_transformer")

    if full:
        return image(swin_transformer.SwinTransformer([4, 4], 96, [2, 2, 6, 2], [3, 6, 12, 24], [7, 7]), 224)
    return image(
        swin_transformer.SwinTransformer([2, 2], 32, [2, 2], [4, 4], [4, 4], mlp_ratio=2.0, num_classes=10), 32
    )


def swin_timm(full: bool) -> Case:
    """Swin of timm."""
    swin_transformer = library("timm.models.swin_transformer")

    if full:
        return image(swin_transformer.SwinTransformer(), 224)
    small: Options = {"img_size": 32, "patch_size": 2, "embed_dim": 32, "window_size": 4, "num_classes": 10}
    return image(swin_transformer.SwinTransformer(depths=(2, 2), num_heads=(4, 4), mlp_ratio=2.0, **small), 32)


def mlp_mixer(full: bool) -> Case:
    """MLP-Mixer: the tokens are mixed by a layer over the transposed axis."""
    mlp_mixer = library("timm.models.mlp_mixer")

    if full:
        return image(mlp_mixer.MlpMixer(img_size=224, patch_size=16, num_blocks=12, embed_dim=768), 224)
    return image(mlp_mixer.MlpMixer(num_classes=10, img_size=32, patch_size=8, num_blocks=2, embed_dim=48), 32)


def mobilevit(full: bool) -> Case:
    """MobileViT: convolutions, and transformers over unfolded patches of feature maps."""
    timm = library("timm.models")
    byobnet = library("timm.models.byobnet")
    mobilevit = library("timm.models.mobilevit")

    if full:
        return image(timm.mobilevit_s(), 256)
    blocks = (
        mobilevit._inverted_residual_block(d=1, c=16, s=1, br=2.0),
        mobilevit._inverted_residual_block(d=2, c=24, s=2, br=2.0),
        mobilevit._mobilevit_block(d=1, c=32, s=2, transformer_dim=40, transformer_depth=2, patch_size=2, br=2.0),
        mobilevit._mobilevit_block(d=1, c=40, s=2, transformer_dim=48, transformer_depth=1, patch_size=2, br=2.0),
    )
    config = byobnet.ByoModelCfg(
        blocks=blocks, stem_chs=16, stem_type="3x3", downsample="", act_layer="silu", num_features=64
    )
    return image(byobnet.ByobNet(config, num_classes=10), 64)


def segformer(full: bool) -> Case:
    """SegFormer: attention with reduced keys, convolutions in the feed-forward, a head that fuses four scales."""
    transformers = library("transformers")

    small: Options = {
        "num_encoder_blocks": 2,
        "depths": [2, 2],
        "sr_ratios": [2, 1],
        "hidden_sizes": [32, 48],
        "patch_sizes": [7, 3],
        "strides": [4, 2],
        "num_attention_heads": [4, 4],
        "mlp_ratios": [2, 2],
        "decoder_hidden_size": 32,
        "num_labels": 8,
    }
    config = transformers.SegformerConfig(num_labels=150) if full else transformers.SegformerConfig(**small)
    network = Call(transformers.SegformerForSemanticSegmentation(config), ("pixel_values",), ("logits",))
    return image(network, 512 if full else 64)


def yolos(full: bool) -> Case:
    """YOLOS: detection tokens beside the patches, and heads for classes and boxes."""
    transformers = library("transformers")

    small: Options = {
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "image_size": [32, 48],
        "patch_size": 8,
        "num_detection_tokens": 10,
        "num_labels": 8,
    }
    config = (
        transformers.YolosConfig(image_size=[512, 864], num_labels=91) if full else transformers.YolosConfig(**small)
    )
    network = Call(transformers.YolosForObjectDetection(config), ("pixel_values",), ("logits", "pred_boxes"))
    case = image(network, 32)
    return case._replace(inputs={"input": torch.randn(2, 3, *config.image_size)}, outputs=("logits", "boxes"))


def clip(full: bool) -> Case:
    """CLIP: a text tower and an image tower, projected into one space and compared."""
    transformers = library("transformers")

    sizes: Options = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    text: Options = {
        **sizes,
        "vocab_size": 100,
        "max_position_embeddings": 16,
        "eos_token_id": 99,
        "projection_dim": 32,
    }
    vision: Options = {**sizes, "image_size": 32, "patch_size": 8, "projection_dim": 32}
    config = (
        transformers.CLIPConfig()
        if full
        else transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=32)
    )
    names = ("input_ids", "pixel_values", "attention_mask")
    length, size = config.text_config.max_position_embeddings, config.vision_config.image_size
    ids = torch.randint(0, config.text_config.vocab_size, (2, length))
    inputs = {"input_ids": ids, "pixel_values": torch.randn(2, 3, size, size), "attention_mask": _mask(2, length)}
    outputs = ("logits_per_image", "text_embeds", "image_embeds")
    return Case(
        Call(transformers.CLIPModel(config), names, outputs), inputs, {name: {0: "batch"} for name in names}, outputs
    )


def _mask(batch: int, length: int) -> torch.Tensor:
    """The first of each row are there."""
    return (torch.arange(length) < torch.tensor([[length], [length - 3]] * batch)[:batch]).long()


NETWORKS: dict[str, Builder] = {
    "vit_b16": vit_b16,
    "swin_torchvision": swin_torchvision,
    "swin_timm": swin_timm,
    "vit_timm": vit_timm,
    "deit": deit,
    "mlp_mixer": mlp_mixer,
    "mobilevit": mobilevit,
    "segformer": segformer,
    "yolos": yolos,
    "clip": clip,
}
