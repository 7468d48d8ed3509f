"""One picture in, what the model sees in it out."""

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor

from pentamask.checkpoint.loader import PentamaskCheckpointer


class Predictor(DefaultPredictor):
    """Detectron2's DefaultPredictor with our checkpointer and a threshold that holds for every model.

    The threshold is on the final `scores`, whatever the model makes them of; config keys such as
    MODEL.FCOS.INFERENCE_TH_TEST compare other numbers and stay as they are.
    """

    def __init__(self, cfg: CfgNode, confidence_threshold: float = 0.0) -> None:
        """
        Args:
            cfg: the whole config; MODEL.WEIGHTS is loaded.
            confidence_threshold: instances and panoptic things with a lower score are left out.
        """
        weights = cfg.MODEL.WEIGHTS
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.WEIGHTS = ""  # loaded below, safely
        # Already applied when a panoptic map is put together; afterwards a lower threshold could bring nothing back.
        cfg.MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH = confidence_threshold
        super().__init__(cfg)
        PentamaskCheckpointer(self.model).load(weights)
        self.confidence_threshold = confidence_threshold

    def __call__(self, original_image: np.ndarray) -> dict:
        """
        Args:
            original_image: (H, W, 3) uint8, BGR.

        Returns:
            The model's output for this image, in Detectron2's format, above the threshold.
        """
        predictions = super().__call__(original_image)
        if "instances" in predictions:
            instances = predictions["instances"]
            predictions["instances"] = instances[instances.scores >= self.confidence_threshold]
        if "panoptic_seg" in predictions:
            predictions["panoptic_seg"] = self._confident_segments(*predictions["panoptic_seg"])
        return predictions

    def _confident_segments(self, id_map: torch.Tensor, segments: list[dict]) -> tuple[torch.Tensor, list[dict]]:
        """Void (0) the things of an id map (H, W) whose score is too low."""
        weak = [s["id"] for s in segments if s["isthing"] and s.get("score", 1.0) < self.confidence_threshold]
        id_map = id_map.masked_fill(torch.isin(id_map, torch.tensor(weak, dtype=id_map.dtype).to(id_map.device)), 0)
        return id_map, [s for s in segments if s["id"] not in weak]
