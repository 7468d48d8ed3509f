"""The head that predicts classes, boxes and mask coefficients."""

from typing import NamedTuple

import torch
from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K
from torch import Tensor, nn

from .fpn import xavier_init


class HeadOutputs(NamedTuple):
    """Raw predictions for the P prior boxes of N images.

    Attributes:
        loc: (N, P, 4) offsets from the prior boxes, see `decode_boxes`.
        logits: (N, P, K + 1) class logits, index 0 the background.
        coefficients: (N, P, k) factors of the prototypes, in (-1, 1).
    """

    loc: Tensor
    logits: Tensor
    coefficients: Tensor


class PredictionHead(nn.Module):
    """One convolution and three predictors, shared by all levels (YOLACT, "Mask Coefficients")."""

    def __init__(self, *, in_channels: int, num_anchors: int, num_classes: int, num_prototypes: int) -> None:
        """
        Args:
            in_channels: channels of every level.
            num_anchors: prior boxes at each location.
            num_classes: K, without background.
            num_prototypes: k.
        """
        super().__init__()
        self.num_classes, self.num_prototypes = num_classes, num_prototypes

        def conv(out_channels: int) -> nn.Conv2d:
            return nn.Conv2d(in_channels, out_channels, 3, padding=1)

        self.upfeature = nn.Sequential(conv(in_channels), nn.ReLU())
        self.bbox_layer = conv(num_anchors * 4)
        self.conf_layer = conv(num_anchors * (num_classes + 1))
        self.mask_layer = conv(num_anchors * num_prototypes)
        xavier_init(self)

    def forward(self, features: list[Tensor]) -> HeadOutputs:
        """
        Args:
            features: (N, C, H, W) of each level, high resolution first.

        Returns:
            The predictions in the order of `prior_boxes`.
        """
        levels = []
        for feature in features:
            x = self.upfeature(feature)
            loc = permute_to_N_HWA_K(self.bbox_layer(x), 4)
            logits = permute_to_N_HWA_K(self.conf_layer(x), self.num_classes + 1)
            levels.append((loc, logits, permute_to_N_HWA_K(self.mask_layer(x), self.num_prototypes).tanh()))
        return HeadOutputs(*(torch.cat(parts, dim=1) for parts in zip(*levels)))
