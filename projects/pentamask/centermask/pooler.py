"""RoI pooling with the adaptive assignment of RoIs to feature levels."""

import torch
from detectron2.modeling.poolers import ROIPooler, convert_boxes_to_pooler_format
from detectron2.structures import Boxes
from torch import Tensor
from torchvision.ops import box_area

from pentamask.common import check_choice
from pentamask.graph import area_levels, pool_levels
from pentamask.optimize import pooling


def adaptive_levels(box_areas: Tensor, image_areas: Tensor, min_level: int, max_level: int) -> Tensor:
    """Level of each box by its share of the image (CenterMask, eq. 2).

    As in the released code `max_level` is the last level that masks are pooled from, P5, not the paper's P7.

    Args:
        box_areas: (R,) in pixels.
        image_areas: (R,) of the unpadded image each box belongs to, in pixels.
        min_level, max_level: numbers of the first and the last level.

    Returns:
        (R,) int64: `max_level` for boxes over a half of the image, one less over a quarter, and so on.
    """
    levels = torch.ceil(max_level - torch.log2(image_areas / box_areas))
    return levels.clamp(min_level, max_level).long()


class AdaptiveROIPooler(ROIPooler):
    """Detectron2's `ROIPooler` that may assign RoIs to levels by their share of the image."""

    def __init__(
        self,
        output_size: int,
        scales: tuple[float, ...],
        sampling_ratio: int,
        pooler_type: str,
        assign_criterion: str = "ratio",
    ) -> None:
        """
        Args:
            output_size, scales, sampling_ratio, pooler_type: see `ROIPooler`.
            assign_criterion: "ratio", see `adaptive_levels`, or "area", as in Mask R-CNN.
        """
        super().__init__(output_size, scales, sampling_ratio, pooler_type)
        key = "ASSIGN_CRITERION of MODEL.ROI_MASK_HEAD or ROI_KEYPOINT_HEAD"
        check_choice(key, assign_criterion, ("ratio", "area"))
        self.assign_criterion = assign_criterion

    def assign_levels(self, boxes: list[Boxes], image_sizes: list[tuple[int, int]]) -> Tensor:
        """Index of the level of each of the R boxes of all images: (R,) int64, 0 for the first level."""
        return torch.cat([self.levels_of(x.tensor, size) for x, size in zip(boxes, image_sizes)])

    def levels_of(self, boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
        """As `assign_levels`, of the boxes (R, 4) of one image."""
        if self.assign_criterion == "area":
            return area_levels(self, boxes)
        image_areas = boxes.new_full((boxes.shape[0],), image_size[0] * image_size[1])
        return adaptive_levels(box_area(boxes), image_areas, self.min_level, self.max_level) - self.min_level

    def forward(self, features: list[Tensor], boxes: list[Boxes], image_sizes: list[tuple[int, int]]) -> Tensor:
        """
        Args:
            features: (N, C, H, W) of each level, high resolution first.
            boxes: R boxes of the N images, XYXY in pixels of the padded images; they may reach beyond the image.
            image_sizes: (height, width) of the unpadded images.

        Returns:
            (R, C, output_size, output_size), in the order of the boxes.
        """
        return self.pool(features, convert_boxes_to_pooler_format(boxes), self.assign_levels(boxes, image_sizes))

    def pool(self, features: list[Tensor], rois: Tensor, levels: Tensor) -> Tensor:
        """As `forward`, of RoIs (R, 5), image index and box, with their levels (R,)."""
        if pooling.can_pool_at_once(self, features):
            return pooling.pool_at_once(self, features, rois, levels)
        return pool_levels(self.level_poolers, features, rois, levels)
