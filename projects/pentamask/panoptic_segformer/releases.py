"""The models that the authors of Panoptic SegFormer released."""

from pentamask.plugin import Licence, Release, published

_FILES = "https://github.com/zhiqi-li/Panoptic-SegFormer/releases/download/v1.0"


def _panoptic_segformer(name: str, quality: float, file: str) -> Release:
    file = f"panoptic_segformer_{file}.pth"
    return Release(
        config=f"PanopticSegFormer/{name}.yaml",
        page="zhiqi-li/Panoptic-SegFormer",
        licence=Licence("Apache 2.0"),
        metrics=published(pq=quality),
        file=file,
        url=f"{_FILES}/{file}",
    )


RELEASES = (
    _panoptic_segformer("R_50_1x", 48.0, "r50_1x"),
    _panoptic_segformer("R_50_2x", 49.6, "r50_2x"),
    _panoptic_segformer("R_101_2x", 50.6, "r101_2x"),
    _panoptic_segformer("PVTv2_B5_2x", 55.6, "pvtv2b5_2x"),
    _panoptic_segformer("Swin_L_2x", 55.8, "swinl_2x"),
)
