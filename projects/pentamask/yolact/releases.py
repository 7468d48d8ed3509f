"""The models that YOLACT's authors released."""

from pentamask.plugin import Licence, Release, published


def _yolact(name: str, fps: float, box_ap: float | None, mask_ap: float, megabytes: float | None = None) -> Release:
    file = f"{name}_54_800000.pth"
    return Release(
        config=f"YOLACT/{name}.yaml",
        page="dbolya/yolact",
        licence=Licence("MIT", "MIT"),
        metrics=published(box_ap, mask_ap),
        seconds=1 / fps,
        device="Titan Xp",
        file=file,
        url=f"https://huggingface.co/dbolya/{name.replace('_', '-')}/resolve/main/{file}",
        split="test-dev",
        megabytes=megabytes,
    )


RELEASES = (
    _yolact("yolact_resnet50", 42.5, 30.3, 28.2),
    _yolact("yolact_darknet53", 40.0, 31.0, 28.7),
    _yolact("yolact_base", 33.5, 32.3, 29.8, 204),
    _yolact("yolact_im700", 23.6, 33.7, 31.2),
    _yolact("yolact_plus_resnet50", 33.5, None, 34.1),
    _yolact("yolact_plus_base", 27.3, None, 34.6),
)
