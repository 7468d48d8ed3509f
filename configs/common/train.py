"""How a training runs: lengths in iterations. `train_net.py` reads every entry."""

train = dict(
    output_dir="./output",
    init_checkpoint="",
    weights_partial=False,  # load what fits, even of another model's file, or where evaluation has random parts left
    max_iter=90000,
    seed=-1,  # of all random numbers; negative: another one each time
    amp=dict(enabled=False),
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
    # max_to_keep: newest checkpoints, 0 for all; best_metric: keep the best by this one besides, as "segm/AP".
    checkpointer=dict(period=5000, max_to_keep=100, best_metric=""),
    eval_period=0,  # only at the end
    log_period=20,
    device="cuda",
)
