"""The models that the papers' authors released: config, where the file is, and the numbers published with it."""

from dataclasses import dataclass
from typing import NamedTuple

_DETECTRON2_FILES = "https://dl.fbaipublicfiles.com/detectron2/COCO-InstanceSegmentation"
_PANOPTIC_SEGFORMER_FILES = "https://github.com/zhiqi-li/Panoptic-SegFormer/releases/download/v1.0"
_DROPBOX = "https://dl.dropbox.com/s"
# AdelaiDet's files moved to the accounts of two of its authors.
_ZJU_FILES = "https://huggingface.co/ZjuCv/AdelaiDet/resolve/main"
_TIANZHI_FILES = "https://huggingface.co/tianzhi/AdelaiDet-FCOS/resolve/main"


class Licence(NamedTuple):
    """What a repository says of its code and, where it does, of its weights."""

    code: str
    weights: str | None = None


LICENCES: dict[str, Licence] = {
    "aim-uofa/AdelaiDet": Licence("BSD 2-Clause for academic use; commercial use by agreement"),
    "youngwanLEE/centermask2": Licence("CC BY-NC 4.0"),
    "dbolya/yolact": Licence("MIT", "MIT"),
    "facebookresearch/detectron2": Licence("Apache 2.0", "CC BY-SA 3.0"),
    "zhiqi-li/Panoptic-SegFormer": Licence("Apache 2.0"),
}


@dataclass(frozen=True)
class Release:
    """A released model.

    Attributes:
        config: the config's name in the model zoo.
        page: GitHub repository whose README or model zoo lists the file; `LICENCES` has its licence.
        seconds: published time for one image, on `device`; None where none was published.
        device: GPU of that measurement; "" without one.
        metrics: published numbers in percent, under Detectron2's names.
        file: the file's name, where the authors state one other than the config's.
        url: the authors' address of the file; None where they give a page or a closed host only.
        split: part of COCO that `metrics` were measured on.
        megabytes: size of the file (10^6 bytes), where its host states it.
        sha256: checksum of the file in hexadecimal, where the authors' pages state one; none of them does.
    """

    config: str
    page: str
    seconds: float | None
    device: str
    metrics: dict[str, float]
    file: str | None = None
    url: str | None = None
    split: str = "val2017"
    megabytes: float | None = None
    sha256: str | None = None

    @property
    def licence(self) -> Licence:
        """Of the authors' repository and, where stated, of the file."""
        return LICENCES[self.page]


def _instance(box_ap: float | None, mask_ap: float | None) -> dict[str, float]:
    numbers = {"bbox/AP": box_ap, "segm/AP": mask_ap}
    return {name: value for name, value in numbers.items() if value is not None}


def _adelaidet(
    name: str,
    fps: float | None,
    metrics: dict[str, float],
    url: str | None = None,
    megabytes: float | None = None,
    device: str = "GTX 1080 Ti",
) -> Release:
    seconds, device = (None, "") if fps is None else (1 / fps, device)
    file = url and url.rsplit("/", 1)[1]
    return Release(f"{name}.yaml", "aim-uofa/AdelaiDet", seconds, device, metrics, file, url, megabytes=megabytes)


def _blendmask(
    name: str, fps: float, box_ap: float, mask_ap: float, megabytes: float | None = None, moved: bool = True
) -> Release:
    url = f"{_ZJU_FILES}/{name}.pth" if moved else None
    return _adelaidet(f"BlendMask/{name}", fps, _instance(box_ap, mask_ap), url, megabytes)


def _panoptic_blendmask(name: str, quality: float, things: float, stuff: float) -> Release:
    metrics = {"panoptic_seg/PQ": quality, "panoptic_seg/PQ_th": things, "panoptic_seg/PQ_st": stuff}
    return _adelaidet(f"BlendMask/Panoptic/{name}", None, metrics)


def _fcos(name: str, fps: float, box_ap: float, url: str | None = None, megabytes: float | None = None) -> Release:
    return _adelaidet(f"FCOS/{name}", fps, _instance(box_ap, None), url, megabytes)


def _fcos_vovnet(name: str, seconds: float, box_ap: float, url: str | None) -> Release:
    return _adelaidet(f"FCOS/vovnet/{name}", 1 / seconds, _instance(box_ap, None), url, device="V100")


def _centermask(
    name: str, seconds: float, box_ap: float, mask_ap: float, file: str, quality: float | None = None
) -> Release:
    metrics = _instance(box_ap, mask_ap) | ({} if quality is None else {"panoptic_seg/PQ": quality})
    device, url = "Titan Xp" if "lite" in name else "V100", f"{_DROPBOX}/{file}.pth"
    config, file = f"CenterMask/{name}.yaml", url.rsplit("/", 1)[1]
    return Release(config, "youngwanLEE/centermask2", seconds, device, metrics, file, url)


def _yolact(name: str, fps: float, box_ap: float | None, mask_ap: float, megabytes: float | None = None) -> Release:
    metrics, file = _instance(box_ap, mask_ap), f"{name}_54_800000.pth"
    url = f"https://huggingface.co/dbolya/{name.replace('_', '-')}/resolve/main/{file}"
    config = f"YOLACT/{name}.yaml"
    return Release(config, "dbolya/yolact", 1 / fps, "Titan Xp", metrics, file, url, "test-dev", megabytes)


def _mask_rcnn(name: str, seconds: float, box_ap: float, mask_ap: float, file: str) -> Release:
    url = f"{_DETECTRON2_FILES}/mask_rcnn_{name}/{file}"
    metrics, file = _instance(box_ap, mask_ap), file.split("/")[1]
    return Release(f"MaskRCNN/{name}.yaml", "facebookresearch/detectron2", seconds, "V100", metrics, file, url)


def _panoptic_segformer(name: str, quality: float, file: str) -> Release:
    config, metrics, file = (
        f"PanopticSegFormer/{name}.yaml",
        {"panoptic_seg/PQ": quality},
        f"panoptic_segformer_{file}.pth",
    )
    url = f"{_PANOPTIC_SEGFORMER_FILES}/{file}"
    return Release(config, "zhiqi-li/Panoptic-SegFormer", None, "", metrics, file, url)


RELEASES: dict[str, Release] = {
    release.config: release
    for release in (
        _blendmask("R_50_1x", 14, 39.9, 35.8),
        _blendmask("R_50_3x", 14, 42.7, 37.8),
        _blendmask("R_101_3x", 11, 44.8, 39.5, 221),
        _blendmask("R_101_dcni3_5x", 10, 46.8, 41.1, 223),
        _blendmask("550_R_50_3x", 28, 38.7, 34.5, 130),
        _blendmask("RT_R_50_4x_syncbn_shtw", 31, 39.3, 35.1, moved=False),
        _blendmask("RT_R_50_4x_bn-head_syncbn_shtw", 31, 39.3, 35.1),
        _blendmask("DLA_34_syncbn_4x", 32, 40.8, 36.3, 104),
        _panoptic_blendmask("R_50_3x", 42.5, 49.5, 32.0),
        _panoptic_blendmask("R_101_3x", 44.3, 51.6, 33.2),
        _panoptic_blendmask("R_101_dcni3_5x", 46.0, 52.9, 35.5),
        _fcos("R_50_1x", 16, 38.7, f"{_ZJU_FILES}/FCOS_R_50_1x.pth", 129),
        _fcos("MS_R_50_2x", 16, 41.0),
        _fcos("MS_R_101_2x", 12, 43.1, f"{_ZJU_FILES}/FCOS_MS_R_101_2x.pth", 206),
        _fcos("MS_X_101_32x8d_2x", 6.6, 43.9, f"{_ZJU_FILES}/FCOS_MS_X_101_32x8d_2x.pth", 383),
        _fcos("MS_X_101_64x4d_2x", 6.1, 44.7, f"{_TIANZHI_FILES}/FCOS_MS_X_101_64x4d_2x.pth"),
        _fcos("MS_X_101_32x8d_2x_dcnv2", 4.6, 46.6, f"{_ZJU_FILES}/FCOS_MS_X_101_32x8d_dcnv2_2x.pth", 412),
        _fcos("R_50_1x_iou", 16, 39.4),
        _fcos("MS_R_50_2x_iou", 16, 41.5),
        _fcos("MS_R_101_2x_iou", 12, 43.5),
        _fcos("MS_X_101_32x8d_2x_iou", 6.6, 44.5),
        _fcos("MS_X_101_32x8d_2x_dcnv2_iou", 4.6, 47.4),
        _fcos(
            "RT/MS_DLA_34_4x_syncbn_shared_towers",
            52,
            39.1,
            f"{_ZJU_FILES}/FCOS_RT_MS_DLA_34_4x_syncbn_shared_towers.pth",
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
        _centermask(
            "centermask_V_39_eSE_FPN_ms_3x", 0.050, 44.2, 39.7, "tczecsdxt10uai5/centermask2-V-39-eSE-FPN-ms-3x"
        ),
        _centermask(
            "centermask_V_57_eSE_FPN_ms_3x", 0.058, 45.1, 40.5, "lw8nxajv1tim8gr/centermask2-V-57-eSE-FPN-ms-3x"
        ),
        _centermask(
            "centermask_V_99_eSE_FPN_ms_3x", 0.077, 46.0, 41.4, "c6n79x83xkdowqc/centermask2-V-99-eSE-FPN-ms-3x"
        ),
        _centermask(
            "centermask_V_39_eSE_dcn_FPN_ms_3x", 0.061, 45.1, 40.3, "zmps03vghzirk7v/centermask-V-39-eSE-dcn-FPN-ms-3x"
        ),
        _centermask(
            "centermask_V_57_eSE_dcn_FPN_ms_3x", 0.071, 45.5, 40.9, "1f64azqyd2ot6qq/centermask-V-57-eSE-dcn-FPN-ms-3x"
        ),
        _centermask(
            "centermask_V_99_eSE_dcn_FPN_ms_3x", 0.110, 46.9, 42.0, "atuph90nzm7s8x8/centermask-V-99-eSE-dcn-FPN-ms-3x"
        ),
        _centermask(
            "centermask_lite_V_19_eSE_FPN_ms_4x",
            0.023,
            35.9,
            32.8,
            "dret2ap7djty7mp/centermask2-lite-V-19-eSE-FPN-ms-4x",
        ),
        _centermask(
            "centermask_lite_V_39_eSE_FPN_ms_4x",
            0.028,
            40.9,
            36.7,
            "uwc0ypa1jvco2bi/centermask2-lite-V-39-eSE-FPN-ms-4x",
        ),
        _centermask(
            "centermask_lite_V_19_slim_eSE_FPN_ms_4x",
            0.021,
            32.5,
            29.8,
            "o2n1ifl0zkbv16x/centermask-lite-V-19-eSE-slim-FPN-ms-4x",
        ),
        _centermask(
            "centermask_lite_V_19_slim_dw_eSE_FPN_ms_4x",
            0.020,
            29.5,
            27.1,
            "vsvhwtqm6ko1c7m/centermask-lite-V-19-eSE-slim-dw-FPN-ms-4x",
        ),
        _centermask("centermask_lite_Mv2_FPN_ms_4x", 0.021, 29.8, 27.2, "8omou546f0n78nj/centermask_lite_Mv2_ms_4x"),
        _centermask(
            "panoptic_centermask_R_50_FPN_ms_3x",
            0.063,
            41.4,
            37.3,
            "vxe51cdeprao94j/panoptic_centermask_R_50_ms_3x",
            42.0,
        ),
        _centermask(
            "panoptic_centermask_R_101_FPN_ms_3x",
            0.076,
            43.5,
            39.0,
            "y5stg3qx72gff5o/panoptic_centermask_R_101_ms_3x",
            43.6,
        ),
        _centermask(
            "panoptic_centermask_V_39_eSE_FPN_ms_3x",
            0.066,
            43.4,
            39.0,
            "49ig16ailra1f4t/panoptic_centermask_V_39_eSE_ms_3x",
            43.7,
        ),
        _centermask(
            "panoptic_centermask_V_57_eSE_FPN_ms_3x",
            0.071,
            43.9,
            39.6,
            "kqukww4y7tbgbrh/panoptic_centermask_V_57_ms_3x",
            44.5,
        ),
        _centermask(
            "panoptic_centermask_V_99_eSE_FPN_ms_3x",
            0.091,
            45.1,
            40.6,
            "pr6a3inpasn7qlz/panoptic_centermask_V_99_ms_3x",
            45.4,
        ),
        _yolact("yolact_resnet50", 42.5, 30.3, 28.2),
        _yolact("yolact_darknet53", 40.0, 31.0, 28.7),
        _yolact("yolact_base", 33.5, 32.3, 29.8, 204),
        _yolact("yolact_im700", 23.6, 33.7, 31.2),
        _yolact("yolact_plus_resnet50", 33.5, None, 34.1),
        _yolact("yolact_plus_base", 27.3, None, 34.6),
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
        _panoptic_segformer("R_50_1x", 48.0, "r50_1x"),
        _panoptic_segformer("R_50_2x", 49.6, "r50_2x"),
        _panoptic_segformer("R_101_2x", 50.6, "r101_2x"),
        _panoptic_segformer("PVTv2_B5_2x", 55.6, "pvtv2b5_2x"),
        _panoptic_segformer("Swin_L_2x", 55.8, "swinl_2x"),
    )
}
