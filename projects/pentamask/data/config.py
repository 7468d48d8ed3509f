"""Config keys of the training data."""

from detectron2.config import CfgNode

from pentamask.common import add_defaults


def add_data_config(cfg: CfgNode) -> None:
    """Add the keys that `MaskDatasetMapper` reads beyond Detectron2's, in place; keys already set are kept.

    Args:
        cfg: a config from `detectron2.config.get_cfg()`.
    """
    # False switches flipping off; True leaves the kind of flip to INPUT.RANDOM_FLIP ("horizontal").
    add_defaults(cfg.INPUT, HFLIP_TRAIN=True)
    # Rotation by up to 30 degrees after the crop; only where INPUT.CROP.ENABLED.
    add_defaults(cfg.INPUT, IS_ROTATE=False)
    # False grows the crop until it cuts no instance (as far as possible).
    add_defaults(cfg.INPUT.CROP, CROP_INSTANCE=True)
    # Short sides in pixels: half of the images are resized to one of them and cropped by CROP.TYPE and CROP.SIZE
    # anywhere; empty for the crop around an instance, of every image.
    add_defaults(cfg.INPUT.CROP, RESIZE_BEFORE=[])
    # "pil" (smooths when it makes smaller) or "opencv".
    add_defaults(cfg.INPUT, RESIZER="pil")
