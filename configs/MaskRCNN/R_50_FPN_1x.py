"""MaskRCNN/R_50_FPN_1x.yaml as a LazyConfig: every imported name is a part of the config."""

from ..common.data import dataloader  # noqa: F401
from ..common.models.mask_rcnn import model  # noqa: F401
from ..common.optim import SGD as optimizer
from ..common.schedule import lr_multiplier_1x as lr_multiplier  # noqa: F401
from ..common.train import train

optimizer.lr = 0.02
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
