"""How a training runs: lengths in iterations. `train_net.py` reads every entry."""

train = dict(
    output_dir="./output",
    init_checkpoint="",
    compile=False,  # the model's dense parts, by torch.compile
    optimize=True,  # evaluate, and predict, with pentamask.optimize_for_inference
    weights_partial=False,  # load what fits, even of another model's file, or where evaluation has random parts left
    max_iter=90000,
    seed=-1,  # of all random numbers; negative: another one each time
    amp=dict(enabled=False, precision="fp16"),  # or "bf16", which also runs on a CPU
    test_amp=dict(enabled=False, precision="fp16"),  # the same in evaluation
    # Also evaluate with test-time augmentation: short sides of the views, their largest long side, mirrored too or not.
    test_aug=dict(enabled=False, min_sizes=(400, 500, 600, 700, 800, 900, 1000, 1100, 1200), max_size=4000, flip=True),
    skip_nonfinite=0,  # steps in a row with an infinite or NaN loss that are left out
    model_ema=dict(enabled=False, decay=0.999),  # moving average of the weights, evaluated beside the model
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
    # max_to_keep: newest checkpoints, 0 for all; best_metric: also keep the best by this metric, such as "segm/AP".
    checkpointer=dict(period=5000, max_to_keep=100, best_metric=""),
    # End when the metric, such as "segm/AP", has had no new best value for so many evaluations; "" never does.
    early_stopping=dict(metric="", patience=5),
    # With another dataloader.train.total_batch_size on the command line, scale learning rate and lengths to it.
    auto_scale=False,
    eval_period=0,  # only at the end
    log_period=20,
    report=False,  # at the end write output_dir/report/index.html
    device="cuda",
)
