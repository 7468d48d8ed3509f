"""YOLACT/yolact_resnet50.yaml as a LazyConfig, for one GPU: every imported name is a part of the config."""

from ..common.data_ssd import dataloader
from ..common.models.yolact import model  # noqa: F401
from ..common.optim import SGD as optimizer
from ..common.schedule import multistep
from ..common.train import train

dataloader.train.total_batch_size = 8
dataloader.train.mapper.augmentations.image_size = "${model.image_size}"
optimizer.update(lr=0.001, weight_decay=0.0005)
optimizer.params.weight_decay_norm = 0.0005
lr_multiplier = multistep(800000, [280000, 600000, 700000, 750000], warmup_iters=500, warmup_factor=0.1)
train.init_checkpoint = "https://download.pytorch.org/models/resnet50-19c8e357.pth"
train.max_iter = 800000
