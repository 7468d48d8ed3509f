"""The models that the authors of centermask2 released."""

from pentamask.plugin import Licence, Release, published

_FILES = "https://dl.dropbox.com/s"


def _centermask(
    name: str, seconds: float, box_ap: float, mask_ap: float, file: str, quality: float | None = None
) -> Release:
    url = f"{_FILES}/{file}.pth"
    return Release(
        config=f"CenterMask/{name}.yaml",
        page="youngwanLEE/centermask2",
        licence=Licence("CC BY-NC 4.0"),
        metrics=published(box_ap, mask_ap, quality),
        seconds=seconds,
        device="Titan Xp" if "lite" in name else "V100",
        file=url.rsplit("/", 1)[1],
        url=url,
    )


RELEASES = (
    _centermask("centermask_V_39_eSE_FPN_ms_3x", 0.050, 44.2, 39.7, "tczecsdxt10uai5/centermask2-V-39-eSE-FPN-ms-3x"),
    _centermask("centermask_V_57_eSE_FPN_ms_3x", 0.058, 45.1, 40.5, "lw8nxajv1tim8gr/centermask2-V-57-eSE-FPN-ms-3x"),
    _centermask("centermask_V_99_eSE_FPN_ms_3x", 0.077, 46.0, 41.4, "c6n79x83xkdowqc/centermask2-V-99-eSE-FPN-ms-3x"),
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
)
PANOPTIC_RELEASES = (
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
)
