"""BlendMask/R_50_1x.yaml as a LazyConfig: every imported name is a part of the config."""

from ..common.data import dataloader
from ..common.models.blendmask import model  # noqa: F401
from ..common.optim import SGD as optimizer  # noqa: F401
from ..common.schedule import lr_multiplier_1x as lr_multiplier  # noqa: F401
from ..common.train import train

train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
dataloader.train.mapper.basis_sem_ann_set = "coco"
