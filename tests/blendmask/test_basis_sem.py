"""The semantic target: later annotations on top, crowds included, prepared files first."""

import numpy as np
import pycocotools.mask as mask_util
import pytest

from pentamask.blendmask.basis_sem import draw_basis_sem, load_basis_sem, prepared_file


def _rle(rows: slice, columns: slice) -> dict:
    mask = np.zeros((6, 8), np.uint8)
    mask[rows, columns] = 1
    return mask_util.encode(np.asfortranarray(mask))


ANNOTATIONS = [
    {"category_id": 2, "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]]},
    {"category_id": 0, "segmentation": _rle(slice(2, 6), slice(2, 8)), "iscrowd": 1},
    {"category_id": 1, "bbox": [0, 0, 8, 6]},  # a box alone covers no pixels
]
EXPECTED = np.array(
    [
        [3, 3, 3, 3, 0, 0, 0, 0],
        [3, 3, 3, 3, 0, 0, 0, 0],
        [3, 3, 1, 1, 1, 1, 1, 1],
        [3, 3, 1, 1, 1, 1, 1, 1],
        [0, 0, 1, 1, 1, 1, 1, 1],
        [0, 0, 1, 1, 1, 1, 1, 1],
    ]
)


def test_annotations_cover_each_other_in_file_order():
    np.testing.assert_array_equal(draw_basis_sem(ANNOTATIONS, 6, 8), EXPECTED)
    assert draw_basis_sem([], 6, 8).sum() == 0


def test_more_than_255_classes_are_kept_apart():
    basis_sem = draw_basis_sem([{"category_id": 1202, "segmentation": _rle(slice(0, 1), slice(0, 1))}], 6, 8)
    assert basis_sem[0, 0] == 1203


def test_a_prepared_file_is_used_instead(tmp_path):
    record = {
        "file_name": str(tmp_path / "coco/train2017/1.jpg"),
        "height": 6,
        "width": 8,
        "annotations": ANNOTATIONS,
    }
    np.testing.assert_array_equal(load_basis_sem(record, "coco"), EXPECTED)
    (tmp_path / "coco/thing_train2017").mkdir(parents=True)
    np.savez_compressed(tmp_path / "coco/thing_train2017/1.npz", mask=np.full((6, 8), 7, np.uint8))
    assert (load_basis_sem(record, "coco") == 7).all()
    np.savez(tmp_path / "coco/thing_train2017/1.npz", mask=np.array([{}]))  # objects, which loading would run
    with pytest.raises(ValueError, match="allow_pickle=False"):
        load_basis_sem(record, "coco")


@pytest.mark.parametrize(
    ("image", "ann_set", "expected"),
    [
        ("d/coco/train2017/1.jpg", "coco", "d/coco/thing_train2017/1.npz"),
        ("d/pic/image/train/1.png", "coco", "d/pic/thing_train/1.npz"),
        ("d/coco/train2017/1.jpg", "lvis", "d/lvis/thing_train/1.npz"),
        ("d/photos/1.jpg", "coco", None),
    ],
)
def test_prepared_files_lie_where_adelaidet_puts_them(image, ann_set, expected):
    assert prepared_file(image, ann_set) == expected
