"""PanopticSegFormer/R_50_2x.yaml as a LazyConfig: every imported name is a part of the config."""

from detectron2.config import LazyCall as L

from pentamask.data.panoptic import dataset_category_ids

from ..common.data_panoptic import dataloader
from ..common.models.panoptic_segformer import model
from ..common.optim import ADAMW as optimizer
from ..common.schedule import multistep
from ..common.train import train

model.category_ids = L(dataset_category_ids)(name="${dataloader.test.dataset.names}")
dataloader.train.total_batch_size = 8
optimizer.update(lr=0.00014, clip_norm=0.1)
optimizer.params.lr_factor_func.multipliers = [
    ["^backbone\\.", 0.1],
    ["sampling_offsets", 0.1],
    ["location_decoder\\.reference_points", 0.1],
]
# 24 epochs of 118287 images.
lr_multiplier = multistep(354864, [266148], warmup_iters=0)
train.init_checkpoint = "https://download.pytorch.org/models/resnet50-0676ba61.pth"
train.max_iter = 354864
train.checkpointer.period = 14786
