"""The models of FCOS that AdelaiDet's authors released, and what all of AdelaiDet's releases share."""

from pentamask.plugin import Licence, Release, published

# AdelaiDet's files moved to the accounts of two of its authors.
ZJU_FILES = "https://huggingface.co/ZjuCv/AdelaiDet/resolve/main"
_TIANZHI_FILES = "https://huggingface.co/tianzhi/AdelaiDet-FCOS/resolve/main"
_DROPBOX = "https://dl.dropbox.com/s"
_LICENCE = Licence("BSD 2-Clause for academic use; commercial use by agreement")


def adelaidet_release(
    name: str,
    fps: float | None,
    metrics: dict[str, float],
    url: str | None = None,
    megabytes: float | None = None,
    device: str = "GTX 1080 Ti",
) -> Release:
    """A release of AdelaiDet; `name` is the config's without its ending, `fps` images per second on `device`."""
    return Release(
        config=f"{name}.yaml",
        page="aim-uofa/AdelaiDet",
        licence=_LICENCE,
        metrics=metrics,
        seconds=None if fps is None else 1 / fps,
        device="" if fps is None else device,
        file=url and url.rsplit("/", 1)[1],
        url=url,
        megabytes=megabytes,
    )


def _fcos(name: str, fps: float, box_ap: float, url: str | None = None, megabytes: float | None = None) -> Release:
    return adelaidet_release(f"FCOS/{name}", fps, published(box_ap), url, megabytes)


def _fcos_vovnet(name: str, seconds: float, box_ap: float, url: str | None) -> Release:
    return adelaidet_release(f"FCOS/vovnet/{name}", 1 / seconds, published(box_ap), url, device="V100")


RELEASES = (
    _fcos("R_50_1x", 16, 38.7, f"{ZJU_FILES}/FCOS_R_50_1x.pth", 129),
    _fcos("MS_R_50_2x", 16, 41.0),
    _fcos("MS_R_101_2x", 12, 43.1, f"{ZJU_FILES}/FCOS_MS_R_101_2x.pth", 206),
    _fcos("MS_X_101_32x8d_2x", 6.6, 43.9, f"{ZJU_FILES}/FCOS_MS_X_101_32x8d_2x.pth", 383),
    _fcos("MS_X_101_64x4d_2x", 6.1, 44.7, f"{_TIANZHI_FILES}/FCOS_MS_X_101_64x4d_2x.pth"),
    _fcos("MS_X_101_32x8d_2x_dcnv2", 4.6, 46.6, f"{ZJU_FILES}/FCOS_MS_X_101_32x8d_dcnv2_2x.pth", 412),
    _fcos("R_50_1x_iou", 16, 39.4),
    _fcos("MS_R_50_2x_iou", 16, 41.5),
    _fcos("MS_R_101_2x_iou", 12, 43.5),
    _fcos("MS_X_101_32x8d_2x_iou", 6.6, 44.5),
    _fcos("MS_X_101_32x8d_2x_dcnv2_iou", 4.6, 47.4),
    _fcos(
        "RT/MS_DLA_34_4x_syncbn_shared_towers",
        52,
        39.1,
        f"{ZJU_FILES}/FCOS_RT_MS_DLA_34_4x_syncbn_shared_towers.pth",
        79.4,
    ),
    _fcos("RT/MS_DLA_34_4x_syncbn_shared_towers_bn_head", 52, 38.9),
    _fcos("RT/MS_DLA_34_4x_syncbn", 46, 40.3),
    _fcos("RT/MS_DLA_34_4x_syncbn_bn_head", 48, 39.4),
    _fcos("RT/MS_R_50_4x_syncbn", 38, 40.2, f"{_TIANZHI_FILES}/FCOS_RT_MS_R_50_4x_syncbn.pth"),
    _fcos("RT/MS_R_50_4x_syncbn_bn_head", 40, 39.3),
    _fcos_vovnet("MS_V_39_3x", 0.045, 43.5, f"{_DROPBOX}/t51vrqiekid49vp/fcos_V_39_eSE_FPN_ms_3x.pth"),
    _fcos_vovnet("MS_V_57_3x", 0.051, 44.4, None),
    _fcos_vovnet("MS_V_99_3x", 0.070, 45.2, f"{_DROPBOX}/cztd5jry52cy6vx/fcos_V_99_eSE_FPN_ms_3x.pth"),
)
