"""Tiles cover a picture and overlap; objects of a mosaic are found once; every thin model runs on tiles."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from scipy import ndimage
from thin_models import THIN_MODELS

from pentamask.engine.checks import BadInput
from pentamask.engine.load_config import find_config_file, load_config
from pentamask.engine.predictor import Predictor
from pentamask.engine.tiles import predict_tiles, tile_starts


@pytest.mark.parametrize(
    ("length", "size", "overlap", "starts"),
    [
        (100, 40, 0.25, [0, 30, 60]),
        (40, 40, 0.25, [0]),
        (30, 40, 0.25, [0]),
        (41, 40, 0.25, [0, 1]),
        (120, 40, 0, [0, 40, 80]),
    ],
)
def test_tile_starts(length, size, overlap, starts):
    assert tile_starts(length, size, overlap) == starts


def find_blobs(picture: np.ndarray) -> dict:
    """Every connected region of pixels that are not 0, scored by how little of it there is."""
    labels, count = ndimage.label(picture[:, :, 0])
    masks = torch.from_numpy(np.stack([labels == i + 1 for i in range(count)]) if count else labels[None][:0] > 0)
    found = Instances(picture.shape[:2], pred_masks=masks, pred_classes=torch.zeros(count, dtype=torch.long))
    boxes = [[x.start, y.start, x.stop, y.stop] for y, x in ndimage.find_objects(labels)]
    found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float).reshape(-1, 4))
    found.scores = 1 / (1 + masks.flatten(1).sum(dim=1).float())
    return {"instances": found}


def test_mosaic():
    """Squares all over a picture, in any position to the tiles: each is found whole, and once."""
    rng = np.random.default_rng(0)
    mosaic = np.zeros((150, 210, 3), dtype=np.uint8)
    for y in range(5):
        for x in range(7):
            top, left = 30 * y + rng.integers(1, 15), 30 * x + rng.integers(1, 15)
            mosaic[top : top + 14, left : left + 14] = 255
    whole, tiled = find_blobs(mosaic)["instances"], predict_tiles(find_blobs, mosaic, 64, 0.3)
    assert len(whole) == len(tiled) == 35
    boxes = [sorted(x.pred_boxes.tensor.tolist()) for x in (whole, tiled)]
    assert boxes[0] == boxes[1]
    assert torch.equal(whole.pred_masks.sum(dim=0), tiled.pred_masks.sum(dim=0))


def test_nothing_to_find():
    assert len(predict_tiles(find_blobs, np.zeros((100, 100, 3), np.uint8), 40, 0.2)) == 0
    with pytest.raises(BadInput, match="models that find instances"):
        predict_tiles(lambda tile: {"sem_seg": tile}, np.zeros((100, 100, 3), np.uint8), 40, 0.2)


@pytest.mark.parametrize("name", THIN_MODELS)
def test_thin_models(name):
    cfg = load_config(find_config_file(f"shapes/{name}.yaml"), ["MODEL.DEVICE", "cpu"])
    picture = np.random.default_rng(0).integers(0, 255, (120, 200, 3)).astype(np.uint8)
    torch.manual_seed(0)
    found = Predictor(cfg, tile=96, overlap=0.2)(picture)["instances"]
    assert found.image_size == (120, 200) and found.pred_masks.shape[1:] == (120, 200)
    if len(found):
        assert found.pred_boxes.tensor.max() <= 200
    with pytest.raises(BadInput, match="Tiles of 0 pixels"):
        Predictor(cfg, tile=0)
