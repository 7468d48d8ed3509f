"""The bottom module: full-image bases, and the semantic loss that helps them along."""

import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, get_norm
from detectron2.structures import BitMasks, Instances, PolygonMasks
from fvcore.nn import weight_init
from torch import Tensor, nn

from pentamask.common import check_choice, derive


class BasisModule(nn.Module):
    """K bases at twice the resolution of the first input (BlendMask, section 3.1; as in the released code a small
    convolutional net on the FPN instead of the paper's DeepLabV3+ decoder)."""

    @configurable
    def __init__(
        self,
        *,
        in_features: list[str],
        in_channels: list[int],
        num_bases: int = 4,
        channels: int = 128,
        num_convs: int = 3,
        norm: str = "SyncBN",
        loss_on: bool = False,
        num_classes: int = 80,
        loss_weight: float = 0.3,
        loss_stride: int = 8,
    ) -> None:
        """
        Args:
            in_features: feature names, high resolution first.
            in_channels: their channels.
            num_bases: K.
            channels: of all layers in between.
            num_convs: convolutions before the upsampling.
            norm: of all layers but the semantic head, which has plain batch norm.
            loss_on: have a semantic head on the first feature in training.
            num_classes: thing classes of the semantic head, without background.
            loss_weight, loss_stride: of the semantic loss; the stride is that of the first feature.
        """
        super().__init__()
        self.in_features = list(in_features)
        self.loss_on = loss_on
        self.loss_weight = loss_weight
        self.loss_stride = loss_stride
        self.refine = nn.ModuleList(_conv_block(c, channels, norm) for c in in_channels)
        self.tower = nn.Sequential(
            *(_conv_block(channels, channels, norm) for _ in range(num_convs)),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            _conv_block(channels, channels, norm),
            nn.Conv2d(channels, num_bases, 1),
        )
        if loss_on:
            self.seg_head = nn.Sequential(
                nn.Conv2d(in_channels[0], channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
                nn.Conv2d(channels, num_classes + 1, 1),
            )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Args: input_shape: of the backbone's features."""
        node = cfg.MODEL.BASIS_MODULE
        check_choice("MODEL.BASIS_MODULE.NAME", node.NAME, ("ProtoNet",))
        classes = cfg.MODEL.FCOS.NUM_CLASSES
        if node.LOSS_ON and 0 < node.NUM_CLASSES < classes:
            raise ValueError(
                f"MODEL.BASIS_MODULE.NUM_CLASSES is {node.NUM_CLASSES}, fewer than MODEL.FCOS.NUM_CLASSES, {classes}: "
                "leave the first out, it follows the second."
            )
        stride = input_shape[node.IN_FEATURES[0]].stride
        given_stride = node.COMMON_STRIDE if node.LOSS_ON else 0
        return {
            "in_features": node.IN_FEATURES,
            "in_channels": [input_shape[name].channels for name in node.IN_FEATURES],
            "num_bases": node.NUM_BASES,
            "channels": node.CONVS_DIM,
            "num_convs": node.NUM_CONVS,
            "norm": node.NORM,
            "loss_on": node.LOSS_ON,
            "num_classes": node.NUM_CLASSES or classes,
            "loss_weight": node.LOSS_WEIGHT,
            "loss_stride": derive("MODEL.BASIS_MODULE.COMMON_STRIDE", given_stride, stride),
        }

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """
        Args:
            features: name -> (N, C, H, W).

        Returns:
            Bases, (N, K, 2 * H, 2 * W) for the H x W of the first feature.
        """
        inputs = [features[name] for name in self.in_features]
        x = self.refine[0](inputs[0])
        for refine, feature in zip(self.refine[1:], inputs[1:]):
            x = x + F.interpolate(refine(feature), x.shape[-2:], mode="bilinear", align_corners=False)
        return self.tower(x)

    def sem_seg_logits(self, features: dict[str, Tensor]) -> Tensor:
        """Semantic head: (N, num_classes + 1, H, W) logits at the first feature's resolution, channel 0 background."""
        return self.seg_head(features[self.in_features[0]])

    def losses(self, features: dict[str, Tensor], basis_sem: Tensor) -> dict[str, Tensor]:
        """The auxiliary loss `loss_basis_sem`.

        Args:
            basis_sem: (N, H, W) int64 at input size, 0 for background and padding, c + 1 for thing class c.
        """
        stride = self.loss_stride
        target = F.interpolate(basis_sem[:, None].float(), scale_factor=1 / stride, mode="nearest")[:, 0].long()
        return {"loss_basis_sem": self.loss_weight * F.cross_entropy(self.sem_seg_logits(features), target)}


def basis_sem_from_instances(instances: Instances, size: tuple[int, int]) -> Tensor:
    """The semantic target of `BasisModule.losses` from an image's instances; later ones cover earlier ones.

    Args:
        instances: with gt_classes and, as polygons or bitmasks at image size, gt_masks.
        size: (height, width) of the image.

    Returns:
        (H, W) int64, on the device of gt_classes.
    """
    target = instances.gt_classes.new_zeros(size)
    if len(instances) == 0:
        return target
    masks = instances.gt_masks
    if isinstance(masks, PolygonMasks):
        masks = BitMasks.from_polygon_masks(masks, *size)
    for mask, label in zip(masks.tensor.to(target.device), instances.gt_classes):
        target[mask.bool()] = label + 1
    return target


def _conv_block(in_channels: int, out_channels: int, norm: str) -> nn.Sequential:
    """3x3 convolution without bias, norm if `norm` is not "", ReLU."""
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    weight_init.c2_xavier_fill(conv)
    layers = [conv, get_norm(norm, out_channels), nn.ReLU()]
    return nn.Sequential(*(layer for layer in layers if layer is not None))
