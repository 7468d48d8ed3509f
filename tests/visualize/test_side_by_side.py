"""The picture has a row of three panels for every image."""

import numpy as np
import torch
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.structures import Boxes, Instances

import pentamask  # noqa: F401
from pentamask.visualize.predictions import draw_frame, draw_predictions, with_class_names
from pentamask.visualize.side_by_side import side_by_side
from pentamask.visualize.tracking import VideoTracker


def _predict(image: np.ndarray) -> dict:
    """One ring in the upper left corner."""
    height, width = image.shape[:2]
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    mask[0, :30, :30] = True
    instances = Instances((height, width), pred_masks=mask, scores=torch.tensor([0.9]))
    instances.pred_classes = torch.tensor([4])
    instances.pred_boxes = Boxes(torch.tensor([[0.0, 0.0, 30.0, 30.0]]))
    return {"instances": instances}


def test_rows_of_input_truth_and_prediction(shapes):
    records, metadata = DatasetCatalog.get("shapes_val")[:3], MetadataCatalog.get("shapes_val")
    picture = np.asarray(side_by_side(records, _predict, metadata, panel=150, blocks=2)).astype(int)
    panel = slice(28, 28 + 100)
    image, truth, prediction = (picture[panel, 6 + i * 156 : 6 + i * 156 + 150] for i in range(3))
    assert picture.shape[1] == 2 * 3 * 156 + 6
    assert (image != truth).mean() > 0.05 and (image != prediction).mean() > 0.05


def test_predictions_change_the_image_where_they_are():
    image = np.full((60, 80, 3), 200, np.uint8)
    metadata = MetadataCatalog.get("shapes_val")
    drawn = draw_predictions(image, _predict(image), metadata, scale=2)
    assert drawn.shape == (120, 160, 3)
    assert (drawn[4:40, 4:40] != 200).mean() > 0.5 and (drawn[100:, 100:] == 200).all()
    formula = Metadata(thing_classes=["a", "b", "c", "d", "$\\frac$"])  # as matplotlib would take it
    assert draw_predictions(image, _predict(image), formula).shape == image.shape
    semantic = {"sem_seg": torch.zeros(4, 60, 80)}
    assert (draw_predictions(image, semantic, MetadataCatalog.get("shapes_val_panoptic_separated")) != 200).any()


def test_frames_of_instances_semantic_and_panoptic_models():
    frame = np.full((60, 80, 3), 200, np.uint8)
    metadata = MetadataCatalog.get("shapes_val_panoptic_separated")
    id_map = torch.ones(60, 80, dtype=torch.int32)
    panoptic = (id_map, [{"id": 1, "isthing": False, "category_id": 1}])
    instances = VideoTracker()(_predict(frame))
    for predictions in (instances, {"sem_seg": torch.zeros(4, 60, 80)}, {"panoptic_seg": panoptic}):
        drawn = draw_frame(frame, predictions, metadata)
        assert drawn.shape == frame.shape and (drawn[20:28, 20:28] != frame[20:28, 20:28]).all(axis=2).mean() > 0.5


def test_segments_of_an_unknown_dataset_are_drawn_with_class_numbers():
    image = np.full((60, 80, 3), 200, np.uint8)
    segments = [{"id": 1, "isthing": False, "category_id": 1}, {"id": 2, "isthing": True, "category_id": 90}]
    id_map = torch.ones(60, 80, dtype=torch.int32)
    id_map[:30] = 2
    metadata = with_class_names(MetadataCatalog.get("never registered"))
    assert metadata.thing_classes[90] == "90" and metadata.thing_colors[0] == [0, 113, 188]  # Detectron2's first
    assert (draw_predictions(image, {"panoptic_seg": (id_map, segments)}, metadata) != image).any()
