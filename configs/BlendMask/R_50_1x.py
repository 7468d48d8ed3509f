"""BlendMask/R_50_1x.yaml as a LazyConfig: every imported name is a part of the config."""

from detectron2.config import LazyCall as L

from pentamask.blendmask.basis_sem import BasisSemMaker

from ..common.data import dataloader
from ..common.models.blendmask import model  # noqa: F401
from ..common.optim import SGD as optimizer  # noqa: F401
from ..common.schedule import lr_multiplier_1x as lr_multiplier  # noqa: F401
from ..common.train import train

train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
dataloader.train.mapper.target_maker = L(BasisSemMaker)(ann_set="coco")
