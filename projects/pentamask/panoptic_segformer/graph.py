"""Panoptic SegFormer for export."""

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_convert

from pentamask.common import vector_of_sizes
from pentamask.graph import Graph


class PanopticSegFormerGraph(Graph):
    """The best things and all stuff: class scores, labels, masks of the whole picture, and boxes (0 of stuff)."""

    mask_kind = "picture"

    @property
    def min_size(self) -> int:
        return 2 * super().min_size - 1  # the encoder's last level has half the resolution of the backbone's

    @property
    def max_detections(self) -> int:
        model = self.model
        things = model.location_decoder.query_embedding.num_embeddings * model.num_thing_classes
        return min(model.max_things, things) + model.num_stuff_classes

    def description(self) -> dict[str, Any]:
        model = self.model
        return {
            "num_things": model.num_thing_classes,
            "category_ids": model.category_ids.tolist(),
            "merge": asdict(model.merge_options),
        }

    def dense(self, images: Tensor) -> Any:
        features = self.model.backbone(images)
        memory = self.model.encoder([features[name] for name in self.model.in_features])
        return memory, self.model.location_decoder(memory)

    def detect(self, dense: Any, n: int, size: tuple[int, int]) -> dict[str, Tensor]:
        model, (memory, locations) = self.model, dense
        tokens, shapes = memory.image(n, len(model.in_features))
        scores = locations.logits[-1, n].sigmoid().flatten()
        scores, index = scores.topk(min(model.max_things, scores.shape[0]))
        queries, labels = index // model.num_thing_classes, index % model.num_thing_classes
        masks = model.thing_mask_decoder(locations.queries[n, queries], tokens, shapes)[1][-1]
        stuff_logits, (stuff_masks,) = model.decode_stuff(tokens, shapes)
        boxes = box_convert(locations.boxes[-1, n, queries], "cxcywh", "xyxy")
        boxes = boxes * vector_of_sizes([size[1], size[0]], boxes).repeat(2)
        stuff = torch.arange(model.num_stuff_classes, device=labels.device) + model.num_thing_classes
        return {
            "boxes": torch.cat([boxes, boxes.new_zeros(model.num_stuff_classes, 4)]),
            "scores": torch.cat([scores, stuff_logits[-1].sigmoid()]),
            "classes": torch.cat([labels, stuff]),
            "masks": torch.cat([masks, stuff_masks]),
        }
