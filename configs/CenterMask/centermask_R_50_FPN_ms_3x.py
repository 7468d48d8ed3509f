"""CenterMask/centermask_R_50_FPN_ms_3x.yaml as a LazyConfig: every imported name is a part of the config."""

from ..common.data import dataloader  # noqa: F401
from ..common.models.centermask import model  # noqa: F401
from ..common.optim import SGD as optimizer  # noqa: F401
from ..common.schedule import lr_multiplier_3x as lr_multiplier  # noqa: F401
from ..common.train import train

train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
train.max_iter = 270000
