"""The two small networks about masks: prototypes from features, and the quality of a mask."""

import torch
from torch import Tensor, nn

from .fpn import xavier_init

_MASK_IOU_CHANNELS = (1, 8, 16, 32, 64, 128)
# Five unpadded 3x3 convolutions of stride 2 leave something of a map of this side.
MASK_IOU_MIN_SIDE = 63


class ProtoNet(nn.Sequential):
    """k prototype masks, >= 0, at twice the resolution of the input (YOLACT, "Prototype Generation").

    (N, C, H, W) -> (N, k, 2 * H, 2 * W).
    """

    def __init__(self, in_channels: int, num_prototypes: int) -> None:
        """
        Args:
            in_channels: C, also the width of the layers in between.
            num_prototypes: k.
        """

        def conv() -> nn.Conv2d:
            return nn.Conv2d(in_channels, in_channels, 3, padding=1)

        upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        stem = [conv(), nn.ReLU(), conv(), nn.ReLU(), conv(), nn.ReLU()]
        # The ReLU after the upsampling changes nothing; it keeps the numbering of the authors' files.
        super().__init__(
            *stem, upsample, nn.ReLU(), conv(), nn.ReLU(), nn.Conv2d(in_channels, num_prototypes, 1), nn.ReLU()
        )
        xavier_init(self)


class MaskIoUNet(nn.Sequential):
    """Predicts the IoU of a mask with the object's true one, for each class (YOLACT++, "Fast Mask
    Re-Scoring Network"); >= 0, not limited to 1."""

    def __init__(self, num_classes: int) -> None:
        """Args: num_classes: K, without background."""
        layers: list[nn.Module] = []
        for in_channels, out_channels in zip(_MASK_IOU_CHANNELS, _MASK_IOU_CHANNELS[1:]):
            layers += [nn.Conv2d(in_channels, out_channels, 3, stride=2), nn.ReLU()]
        super().__init__(*layers, nn.Conv2d(_MASK_IOU_CHANNELS[-1], num_classes, 1), nn.ReLU())
        xavier_init(self)

    def forward(self, masks: Tensor) -> Tensor:
        """(n, H, W) cropped mask probabilities at prototype resolution, at least 63 x 63 -> (n, K)."""
        return super().forward(masks[:, None]).amax(dim=(2, 3))

    def scores(self, masks: Tensor, classes: Tensor) -> Tensor:
        """Predicted IoU (n,) of (n, H, W) masks for their (n,) `classes`, 0-based."""
        return self(masks)[torch.arange(classes.shape[0], device=classes.device), classes]
