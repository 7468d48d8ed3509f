"""The models of BlendMask that AdelaiDet's authors released."""

from pentamask.fcos.releases import ZJU_FILES, adelaidet_release
from pentamask.plugin import Release, published


def _blendmask(
    name: str, fps: float, box_ap: float, mask_ap: float, megabytes: float | None = None, moved: bool = True
) -> Release:
    url = f"{ZJU_FILES}/{name}.pth" if moved else None
    return adelaidet_release(f"BlendMask/{name}", fps, published(box_ap, mask_ap), url, megabytes)


def _panoptic(name: str, quality: float, things: float, stuff: float) -> Release:
    metrics = published(pq=quality) | {"panoptic_seg/PQ_th": things, "panoptic_seg/PQ_st": stuff}
    return adelaidet_release(f"BlendMask/Panoptic/{name}", None, metrics)


RELEASES = (
    _blendmask("R_50_1x", 14, 39.9, 35.8),
    _blendmask("R_50_3x", 14, 42.7, 37.8),
    _blendmask("R_101_3x", 11, 44.8, 39.5, 221),
    _blendmask("R_101_dcni3_5x", 10, 46.8, 41.1, 223),
    _blendmask("550_R_50_3x", 28, 38.7, 34.5, 130),
    _blendmask("RT_R_50_4x_syncbn_shtw", 31, 39.3, 35.1, moved=False),
    _blendmask("RT_R_50_4x_bn-head_syncbn_shtw", 31, 39.3, 35.1),
    _blendmask("DLA_34_syncbn_4x", 32, 40.8, 36.3, 104),
    _panoptic("R_50_3x", 42.5, 49.5, 32.0),
    _panoptic("R_101_3x", 44.3, 51.6, 33.2),
    _panoptic("R_101_dcni3_5x", 46.0, 52.9, 35.5),
)
