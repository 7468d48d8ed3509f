"""The models that the papers' authors released: config, where the file is, and the numbers published with it."""

from dataclasses import dataclass

_DETECTRON2_FILES = "https://dl.fbaipublicfiles.com/detectron2/COCO-InstanceSegmentation/"


@dataclass(frozen=True)
class Release:
    """A released model.

    Attributes:
        config: the config's name in the model zoo.
        page: GitHub repository whose README or model zoo lists the file.
        seconds: published time for one image, on `device`; None where none was published.
        device: GPU of that measurement.
        metrics: published COCO val2017 numbers in percent, under Detectron2's names.
        url: address of the file, where it is known to last.
    """

    config: str
    page: str
    seconds: float | None
    device: str
    metrics: dict[str, float]
    url: str | None = None


def _adelaidet(config: str, fps: float | None, **metrics: float) -> Release:
    seconds = None if fps is None else 1 / fps
    return Release(f"{config}.yaml", "aim-uofa/AdelaiDet", seconds, "GTX 1080 Ti", metrics)


def _blendmask(name: str, fps: float, box_ap: float, mask_ap: float) -> Release:
    return _adelaidet(f"BlendMask/{name}", fps, **{"bbox/AP": box_ap, "segm/AP": mask_ap})


def _panoptic_blendmask(name: str, quality: float, things: float, stuff: float) -> Release:
    metrics = {"panoptic_seg/PQ": quality, "panoptic_seg/PQ_th": things, "panoptic_seg/PQ_st": stuff}
    return _adelaidet(f"BlendMask/Panoptic/{name}", None, **metrics)


def _fcos(name: str, fps: float, box_ap: float) -> Release:
    return _adelaidet(f"FCOS/{name}", fps, **{"bbox/AP": box_ap})


def _mask_rcnn(name: str, seconds: float, box_ap: float, mask_ap: float, file: str) -> Release:
    metrics = {"bbox/AP": box_ap, "segm/AP": mask_ap}
    url = f"{_DETECTRON2_FILES}mask_rcnn_{name}/{file}"
    return Release(f"MaskRCNN/{name}.yaml", "facebookresearch/detectron2", seconds, "V100", metrics, url)


RELEASES: dict[str, Release] = {
    release.config: release
    for release in (
        _blendmask("R_50_1x", 14, 39.9, 35.8),
        _blendmask("R_50_3x", 14, 42.7, 37.8),
        _blendmask("R_101_3x", 11, 44.8, 39.5),
        _blendmask("R_101_dcni3_5x", 10, 46.8, 41.1),
        _blendmask("550_R_50_3x", 28, 38.7, 34.5),
        _blendmask("RT_R_50_4x_syncbn_shtw", 31, 39.3, 35.1),
        _blendmask("RT_R_50_4x_bn-head_syncbn_shtw", 31, 39.3, 35.1),
        _blendmask("DLA_34_syncbn_4x", 32, 40.8, 36.3),
        _panoptic_blendmask("R_50_3x", 42.5, 49.5, 32.0),
        _panoptic_blendmask("R_101_3x", 44.3, 51.6, 33.2),
        _panoptic_blendmask("R_101_dcni3_5x", 46.0, 52.9, 35.5),
        _fcos("R_50_1x", 16, 38.7),
        _fcos("MS_R_50_2x", 16, 41.0),
        _fcos("MS_R_101_2x", 12, 43.1),
        _fcos("MS_X_101_32x8d_2x", 6.6, 43.9),
        _fcos("MS_X_101_64x4d_2x", 6.1, 44.7),
        _fcos("MS_X_101_32x8d_2x_dcnv2", 4.6, 46.6),
        _fcos("R_50_1x_iou", 16, 39.4),
        _fcos("MS_R_50_2x_iou", 16, 41.5),
        _fcos("MS_R_101_2x_iou", 12, 43.5),
        _fcos("MS_X_101_32x8d_2x_iou", 6.6, 44.5),
        _fcos("MS_X_101_32x8d_2x_dcnv2_iou", 4.6, 47.4),
        _fcos("RT/MS_DLA_34_4x_syncbn_shared_towers", 52, 39.1),
        _fcos("RT/MS_DLA_34_4x_syncbn_shared_towers_bn_head", 52, 38.9),
        _fcos("RT/MS_DLA_34_4x_syncbn", 46, 40.3),
        _fcos("RT/MS_DLA_34_4x_syncbn_bn_head", 48, 39.4),
        _fcos("RT/MS_R_50_4x_syncbn", 38, 40.2),
        _fcos("RT/MS_R_50_4x_syncbn_bn_head", 40, 39.3),
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
}
