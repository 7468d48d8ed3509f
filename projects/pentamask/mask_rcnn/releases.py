"""The Mask R-CNNs of Detectron2's model zoo."""

from pentamask.plugin import Licence, Release, published

_FILES = "https://dl.fbaipublicfiles.com/detectron2/COCO-InstanceSegmentation"


def _mask_rcnn(name: str, seconds: float, box_ap: float, mask_ap: float, file: str) -> Release:
    return Release(
        config=f"MaskRCNN/{name}.yaml",
        page="facebookresearch/detectron2",
        licence=Licence("Apache 2.0", "CC BY-SA 3.0"),
        metrics=published(box_ap, mask_ap),
        seconds=seconds,
        device="V100",
        file=file.split("/")[1],
        url=f"{_FILES}/mask_rcnn_{name}/{file}",
    )


RELEASES = (
    _mask_rcnn("R_50_C4_1x", 0.110, 36.8, 32.2, "137259246/model_final_9243eb.pkl"),
    _mask_rcnn("R_50_DC5_1x", 0.076, 38.3, 34.2, "137260150/model_final_4f86c3.pkl"),
    _mask_rcnn("R_50_FPN_1x", 0.043, 38.6, 35.2, "137260431/model_final_a54504.pkl"),
    _mask_rcnn("R_50_C4_3x", 0.111, 39.8, 34.4, "137849525/model_final_4ce675.pkl"),
    _mask_rcnn("R_50_DC5_3x", 0.076, 40.0, 35.9, "137849551/model_final_84107b.pkl"),
    _mask_rcnn("R_50_FPN_3x", 0.043, 41.0, 37.2, "137849600/model_final_f10217.pkl"),
    _mask_rcnn("R_101_C4_3x", 0.145, 42.6, 36.7, "138363239/model_final_a2914c.pkl"),
    _mask_rcnn("R_101_DC5_3x", 0.092, 41.9, 37.3, "138363294/model_final_0464b7.pkl"),
    _mask_rcnn("R_101_FPN_3x", 0.056, 42.9, 38.6, "138205316/model_final_a3ec72.pkl"),
    _mask_rcnn("X_101_32x8d_FPN_3x", 0.103, 44.3, 39.5, "139653917/model_final_2d9806.pkl"),
)
