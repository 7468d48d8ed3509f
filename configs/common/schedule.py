"""Learning rates as multiples of the optimizer's, over the share of the training that is done."""

from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler


def multistep(max_iter, steps, warmup_iters=1000, warmup_factor=0.001):
    """Linear warm-up, then a tenth of the rate from each of the iterations `steps` on."""
    return L(WarmupParamScheduler)(
        scheduler=L(MultiStepParamScheduler)(
            values=[0.1**k for k in range(len(steps) + 1)], milestones=[*steps, max_iter]
        ),
        warmup_length=warmup_iters / max_iter,
        warmup_method="linear",
        warmup_factor=warmup_factor,
    )


# Detectron2's "1x" and "3x" for 16 images per iteration.
lr_multiplier_1x = multistep(90000, [60000, 80000])
lr_multiplier_3x = multistep(270000, [210000, 250000])
