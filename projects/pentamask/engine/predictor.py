"""One picture in, what the model sees in it out."""

import numpy as np
import torch
from detectron2.config import CfgNode, instantiate
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import convert_image_to_rgb
from omegaconf import DictConfig

from pentamask.data.mapper import MaskDatasetMapper
from pentamask.data.pictures import convert_bgr
from pentamask.engine.checks import BadInput
from pentamask.engine.inference import build_any_model, load_for_inference
from pentamask.engine.tiles import predict_tiles
from pentamask.explanation import Explanation
from pentamask.inputs import check_picture, register_input_check
from pentamask.plugin import declared


class Predictor:
    """As Detectron2's DefaultPredictor, for either kind of config, with a threshold that holds for every model.

    Pictures are resized as the config's test loader does it. The threshold is on the final `scores`, whatever the model
    makes them of; config keys such as MODEL.FCOS.INFERENCE_TH_TEST compare other numbers and stay as they are.
    """

    def __init__(
        self,
        cfg: CfgNode | DictConfig,
        confidence_threshold: float = 0.0,
        *,
        tile: int | None = None,
        overlap: float = 0.25,
    ) -> None:
        """
        Args:
            cfg: the whole config; MODEL.WEIGHTS or train.init_checkpoint is loaded.
            confidence_threshold: instances and panoptic things with a lower score are left out.
            tile: find the instances of a larger picture in tiles of this side in pixels, see `predict_tiles`; None sees
                it as a whole.
            overlap: of neighbouring tiles, as a share of `tile`.

        Raises:
            BadInput: tile or overlap are out of range.
        """
        if tile is not None and not (tile >= 1 and 0 <= overlap < 1):
            raise BadInput(
                f"Tiles of {tile} pixels with an overlap of {overlap}: give 1 or more, and from 0 to below 1."
            )
        self.tile, self.overlap = tile, overlap
        self.model, self.mapper = build_any_model(cfg), _test_mapper(cfg)
        register_input_check(self.model)
        load_for_inference(cfg, self.model)
        self.confidence_threshold = confidence_threshold
        if hasattr(self.model, "combine_instances_score_thresh"):
            # Applied when a panoptic map is put together; afterwards a lower threshold could bring nothing back.
            self.model.combine_instances_score_thresh = confidence_threshold  # type: ignore[assignment]

    def __call__(self, original_image: np.ndarray) -> dict:
        """
        Args:
            original_image: (H, W, 3) uint8, BGR.

        Returns:
            The model's output for this image, in Detectron2's format, above the threshold; with tiles "instances" only.

        Raises:
            ValueError: it is something else than such a picture.
            BadInput: tiles are asked for, and the model finds no instances.
        """
        if self.tile is None:
            return self.predict_batch([original_image])[0]
        check_picture(original_image)
        instances = predict_tiles(lambda tile: self.predict_batch([tile])[0], original_image, self.tile, self.overlap)
        return {"instances": instances}

    @torch.inference_mode()
    def predict_batch(self, original_images: list[np.ndarray]) -> list[dict]:
        """As `__call__`, for several images at once and without tiles."""
        batch = [self.make_input(image) for image in original_images]
        return [self._confident(predictions) for predictions in self.model(batch)]

    def _confident(self, predictions: dict) -> dict:
        """What of a model's output is above the threshold."""
        if "instances" in predictions:
            instances = predictions["instances"]
            predictions["instances"] = instances[instances.scores >= self.confidence_threshold]
        if "panoptic_seg" in predictions:
            predictions["panoptic_seg"] = self._confident_segments(*predictions["panoptic_seg"])
        return predictions

    def make_input(self, original_image: np.ndarray) -> dict:
        """What the model takes for an image: Detectron2's input dict, as the test loader makes it; see `__call__`."""
        check_picture(original_image)
        height, width = original_image.shape[:2]
        inputs = T.AugInput(convert_bgr(original_image, self.mapper.image_format))
        self.mapper.augmentations(inputs)
        return {
            "image": torch.from_numpy(inputs.image.transpose(2, 0, 1).copy()),
            "height": height,
            "width": width,
        }

    @torch.no_grad()
    def explain(self, original_image: np.ndarray, max_instances: int = 5) -> tuple[np.ndarray, Explanation]:
        """What goes on inside the model for an image (see `__call__`), about instances above the threshold.

        Args:
            original_image: as in `__call__`.
            max_instances: of the best, how many are explained.

        Returns:
            The picture (H, W, 3) uint8, RGB, to whose pixels the explanation refers, and the explanation.

        Raises:
            BadInput: the model's class declares no `explain`.
        """
        explain = declared(type(self.model), "explain")
        if explain is None:
            raise BadInput(f"{type(self.model).__name__} declares no `explain` (see docs/extending.md).")
        inputs = self.make_input(original_image)
        (parts,) = explain(self.model, [inputs], max_instances=max_instances, min_score=self.confidence_threshold)
        picture = convert_image_to_rgb(inputs["image"].permute(1, 2, 0), self.mapper.image_format)
        return np.ascontiguousarray(picture, dtype=np.uint8), parts

    def _confident_segments(self, id_map: torch.Tensor, segments: list[dict]) -> tuple[torch.Tensor, list[dict]]:
        """Void (0) the things of an id map (H, W) whose score is too low."""
        weak = [s["id"] for s in segments if s["isthing"] and s.get("score", 1.0) < self.confidence_threshold]
        id_map = id_map.masked_fill(torch.isin(id_map, torch.tensor(weak, dtype=id_map.dtype).to(id_map.device)), 0)
        return id_map, [s for s in segments if s["id"] not in weak]


def _test_mapper(cfg: CfgNode | DictConfig) -> DatasetMapper:
    """The test loader's, which knows the size and colours that the model takes."""
    if isinstance(cfg, CfgNode):
        return MaskDatasetMapper(cfg, is_train=False)
    return instantiate(cfg.dataloader.test.mapper)
