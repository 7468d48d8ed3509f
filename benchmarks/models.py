"""Times whole models on one picture: as built, optimised, compiled, and exported, turn by turn in one process.

    python benchmarks/models.py [--device cuda] [--threads 2] [--rounds 7] [--models BlendMask YOLACT] [--json FILE]

Weights are random, statistics of batch norm are those of the picture, and class biases are set so that there are
detections. "plain" is the model as built (for Mask R-CNN that is Detectron2's own code), the peer of all ratios.
Columns, goals and results: README.md beside this file.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from detectron2.data import detection_utils
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pentamask import model_zoo, optimize_for_inference
from pentamask.data.shape_scenes import draw_scene
from pentamask.engine.stages import STAGES, clock, stage_times
from pentamask.optimize import compile_dense_parts

MODELS = {
    "BlendMask": ("BlendMask/R_50_1x.yaml", (480, 640)),
    "FCOS": ("FCOS/R_50_1x.yaml", (480, 640)),
    "CenterMask": ("CenterMask/centermask_V_39_eSE_FPN_ms_3x.yaml", (480, 640)),
    "CenterMask-Lite": ("CenterMask/centermask_lite_V_39_eSE_FPN_ms_4x.yaml", (480, 640)),
    "YOLACT": ("YOLACT/yolact_resnet50.yaml", (550, 550)),
    "MaskRCNN": ("MaskRCNN/R_50_FPN_3x.yaml", (480, 640)),
    "PanopticSegFormer": ("PanopticSegFormer/R_50_2x.yaml", (480, 640)),
}
VARIANTS = ("plain", "optimised", "compiled", "half", "onnxruntime", "openvino")
CPU_VARIANTS, CUDA_VARIANTS = ("plain", "optimised"), ("plain", "optimised", "half", "compiled")


def picture(path: str | None, size: tuple[int, int]) -> torch.Tensor:
    """(3, height, width) uint8, BGR: of a file, or generated."""
    image = detection_utils.read_image(path, "BGR") if path else draw_scene(np.random.default_rng(0)).image
    tensor = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    return nn.functional.interpolate(tensor, size, mode="bilinear", antialias=True)[0].round().clamp(0, 255).byte()


def build(config: str, inputs: list[dict], device: str) -> nn.Module:
    """The model with statistics and biases as above."""
    torch.manual_seed(0)
    cfg = model_zoo.get_config(config)
    cfg.MODEL.DEVICE = device
    model = build_model(cfg).eval().requires_grad_(False)

    def measure(norm: nn.Module, args: tuple) -> None:
        norm.running_mean.copy_(args[0].mean(dim=(0, 2, 3)))
        norm.running_var.copy_(args[0].var(dim=(0, 2, 3)) + 1e-3)

    norms = [m for m in model.modules() if isinstance(m, FrozenBatchNorm2d | nn.BatchNorm2d)]
    handles = [norm.register_forward_pre_hook(measure) for norm in norms]
    with torch.no_grad():
        model(inputs)
    for handle in handles:
        handle.remove()
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and name.endswith(("cls_logits", "ctrness", "bbox_pred")):
            module.weight.data.mul_(8)
            if name.endswith("cls_logits"):
                module.bias.data.fill_(-4.5)
    return model


def matrix_rate(device: str) -> float:
    """Multiply-adds a second of the best of some dense products: what the roofline is measured by."""
    weight, features = torch.randn(256, 256, 3, 3, device=device), torch.randn(1, 256, 60, 80, device=device)
    model = nn.Conv2d(256, 256, 3, padding=1).to(device)
    model.weight.data, features = weight, features.contiguous(memory_format=torch.channels_last)
    matrix = torch.randn(2048, 2048, device=device)
    linear = optimize_for_inference(nn.Linear(2048, 2048).to(device))
    work = {lambda: model(features): 256 * 256 * 9 * 4800, lambda: linear(matrix): 2048**3}
    with torch.inference_mode():
        return max(count / min(elapsed(call, device) for _ in range(8)) for call, count in work.items())


def elapsed(call: Callable, device: str) -> float:
    start = clock(device)
    call()
    return clock(device) - start


def multiply_adds(model: nn.Module, inputs: list[dict]) -> int:
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(inputs)
    return counter.get_total_flops() // 2


def make_variant(name: str, model: nn.Module, inputs: list[dict], config: str, threads: int) -> Callable[[], object]:
    """A call without arguments that runs the picture through one variant of the model."""
    if name == "plain":
        return lambda: model(inputs)
    if name == "optimised":
        optimised = optimize_for_inference(model, inputs)
        return lambda: optimised(inputs)
    if name == "compiled":
        compiled = compile_dense_parts(optimize_for_inference(model))
        return lambda: compiled(inputs)
    if name == "half":
        optimised, device = optimize_for_inference(model), next(model.parameters()).device.type

        def half() -> object:
            with torch.autocast(device, dtype=torch.float16):
                return optimised(inputs)

        return half
    return _exported(name, model, inputs, config, threads)


def _exported(name: str, model: nn.Module, inputs: list[dict], config: str, threads: int) -> Callable[[], object]:
    from pentamask.export import export_onnx

    path = str(Path(tempfile.gettempdir()) / f"{config.replace('/', '_')}.onnx")
    export_onnx(model, model_zoo.get_config(config), path)
    image = inputs[0]["image"].numpy()
    if name == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, {session.get_inputs()[0].name: image})
    import openvino

    options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}  # else bfloat16 where there is one
    compiled = openvino.Core().compile_model(path, "CPU", options)
    return lambda: compiled(image)


def largest_differences(expected: dict, actual: dict) -> str:
    """Of scores and boxes of the instances, row by row."""
    a, b = expected["instances"], actual["instances"]
    if len(a) != len(b):
        return f"{len(a)} and {len(b)} instances"
    scores = (a.scores - b.scores).abs().max().item() if len(a) else 0.0
    return f"{len(a)} instances, scores {scores:.0e}"


def measure(name: str, args: argparse.Namespace, rate: float) -> dict:
    """All figures of one model."""
    config, size = MODELS[name]
    inputs = [{"image": picture(args.input, size), "height": size[0], "width": size[1]}]
    model = build(config, inputs, args.device)
    calls, failed = {}, {}
    for variant in args.variants:
        try:
            calls[variant] = make_variant(variant, model, inputs, config, args.threads)
            with torch.inference_mode():
                calls[variant]()
        except Exception as error:  # the other variants are still worth their time
            calls.pop(variant, None)
            failed[variant] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    times: dict[str, list[float]] = {variant: [] for variant in calls}
    with torch.inference_mode():
        for _ in range(args.rounds):
            for variant, call in calls.items():
                times[variant].append(elapsed(call, args.device))
        medians = {variant: statistics.median(values) for variant, values in times.items()}
        ratios = {
            variant: statistics.median(p / t for p, t in zip(times["plain"], values))
            for variant, values in times.items()
        }
        stages = {}
        for variant in ("plain", "optimised"):
            module = model if variant == "plain" else optimize_for_inference(model, inputs)
            with stage_times(module) as seconds:
                for _ in range(args.rounds):
                    module(inputs)
            stages[variant] = {stage: value / args.rounds for stage, value in seconds.items()}
        agreement = largest_differences(model(inputs)[0], optimize_for_inference(model)(inputs)[0])
    work = multiply_adds(model, inputs)
    return {
        "config": config,
        "size": size,
        "seconds": medians,
        "ratio_to_plain": ratios,
        "stages": stages,
        "multiply_adds": work,
        "roofline_seconds": work / rate,
        "optimised_against_plain": agreement,
        "failed": failed,
    }


def print_table(results: dict[str, dict], variants: list[str]) -> None:
    columns = [f"{variant} x" for variant in variants if variant != "plain"]
    print(f"| model | plain ms | {' | '.join(columns)} | GMAC | roofline ms | optimised against plain |")
    print("| --- | ---: |" + " ---: |" * (len(variants) + 1) + " --- |")
    for name, row in results.items():
        ratios = [row["ratio_to_plain"].get(v) for v in variants if v != "plain"]
        cells = [f"{1000 * row['seconds']['plain']:.0f}", *("-" if x is None else f"{x:.2f}" for x in ratios)]
        cells += [f"{row['multiply_adds'] / 1e9:.0f}", f"{1000 * row['roofline_seconds']:.0f}"]
        print(f"| {name} | {' | '.join(cells)} | {row['optimised_against_plain']} |")
    stages = STAGES
    print(f"\n| model, ms plain / optimised | {' | '.join(stages)} |\n| --- |" + " ---: |" * len(stages))
    for name, row in results.items():
        plain, optimised = (row["stages"][v] for v in ("plain", "optimised"))
        cells = [f"{1000 * plain.get(s, 0):.0f} / {1000 * optimised.get(s, 0):.0f}" for s in stages]
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, help="default: by device")
    parser.add_argument("--input", help="a picture instead of the generated one")
    parser.add_argument("--json", help="write all figures to this file")
    args = parser.parse_args()
    args.variants = args.variants or list(CUDA_VARIANTS if args.device == "cuda" else CPU_VARIANTS)
    if args.variants[0] != "plain":
        args.variants = ["plain", *(v for v in args.variants if v != "plain")]
    torch.set_num_threads(args.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    rate = matrix_rate(args.device)
    print(f"torch {torch.__version__}, {args.device}, {args.threads} threads, {rate / 1e9:.0f} GMAC/s")
    results = {}
    for name in args.models:
        results[name] = measure(name, args, rate)
        for variant, reason in results[name]["failed"].items():
            print(f"{name}, {variant}: {reason}")
    print_table(results, args.variants)
    if args.json:
        figures = {"device": args.device, "threads": args.threads, "macs_per_second": rate, "models": results}
        Path(args.json).write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
