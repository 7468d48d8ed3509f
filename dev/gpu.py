"""Build, test, measure and train on a GPU, each step with a time limit: dev/gpu.sh.

A step that fails or runs out of time does not stop the others. DIR/gpu.json says what happened, DIR/STEP.log what each
printed; --only runs some steps again and keeps the other results. The table is written to benchmarks/README.md.
--dry-run walks every step on the CPU with tiny sizes, so that no flag is missing when there is a GPU; its table goes to
DIR/table.md. The trainings need --coco, a folder with COCO's train2017/ and annotations/, of which some hundred images
are enough, and must learn them by heart; without it they are four iterations on generated shapes.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import torch

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "benchmarks" / "README.md"
MARKS = ("<!-- dev/gpu.sh writes from here -->\n", "<!-- to here -->\n")
KERNEL_TESTS = "test_equals_float64_reference or test_reduced_types or test_non_contiguous"
GOAL = 70.0  # AP or PQ of the images that were trained on
# Config, the metric that shows that it has learned its images, and options beside BY_HEART.
MODELS: dict[str, tuple[str, str, dict]] = {
    "BlendMask": ("BlendMask/R_50_1x.yaml", "segm/AP", {}),
    "BlendMask-Panoptic": ("BlendMask/Panoptic/R_50_1x.yaml", "panoptic_seg/PQ", {}),
    "CenterMask": ("CenterMask/centermask_R_50_FPN_ms_3x.yaml", "segm/AP", {}),
    "YOLACT": (
        "YOLACT/yolact_resnet50.yaml",
        "segm/AP",
        {"INPUT.SSD_AUGMENTATION": False, "INPUT.MIN_SIZE_TEST": 0, "SOLVER.BASE_LR": 0.004},
    ),
    "MaskRCNN": ("MaskRCNN/R_50_FPN_1x.yaml", "segm/AP", {}),
    "PanopticSegFormer": ("PanopticSegFormer/R_50_1x.yaml", "panoptic_seg/PQ", {"INPUT.CROP.ENABLED": False}),
}
# From random weights, without what keeps a model from learning single images.
BY_HEART = {
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.NORM": "BN",
    "INPUT.RANDOM_FLIP": "none",
    "INPUT.MIN_SIZE_TRAIN": "(480,)",
    "INPUT.MAX_SIZE_TRAIN": 800,
    "INPUT.MIN_SIZE_TEST": 480,
    "INPUT.MAX_SIZE_TEST": 800,
    "DATALOADER.NUM_WORKERS": 12,
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.MAX_ITER": 20000,
    "SOLVER.STEPS": "()",
    "SOLVER.WARMUP_ITERS": 100,
    "SOLVER.WEIGHT_DECAY": 0.0,
    "SOLVER.CLIP_GRADIENTS.ENABLED": True,
    "SOLVER.AMP.ENABLED": True,
    "SOLVER.AMP.PRECISION": "bf16",
}
ONE_ITERATION = {
    "DATASETS.TEST": "()",
    "INPUT.MIN_SIZE_TRAIN": "(96,)",
    "DATALOADER.NUM_WORKERS": 0,
    "SOLVER.IMS_PER_BATCH": 1,
    "SOLVER.MAX_ITER": 1,
}


class Step(NamedTuple):
    """One command: its time limit, the file that it writes its results to, and a metric that may end it early."""

    name: str
    command: list[str]
    seconds: int
    result: Path | None = None
    metric: str | None = None


def pytest_step(name: str, output: Path, seconds: int, *arguments: str, before: tuple[str, ...] = ()) -> Step:
    """Tests, whose counts go to an XML file."""
    report = output / f"{name}.xml"
    command = [*before, sys.executable, "-m", "pytest", f"--junitxml={report}", *arguments]
    return Step(name, command, seconds, report)


def test_steps(output: Path, dry: bool) -> list[Step]:
    """The compilation, all tests that use a GPU, the reference cases in three precisions, and the sanitizers."""
    python, device = sys.executable, "cpu" if dry else "cuda"
    # A dry run leaves the extension that is there.
    build = [python, "dev/compile_cuda.py"] if dry else [python, "setup.py", "build_ext", "--inplace"]
    ops = ("tests/ops/test_all_ops.py", "-k", "test_non_contiguous" if dry else "cuda")
    few = ("-k", "deform_attn or blender or sag_mask_head or mask_rescoring") if dry else ()
    steps = [
        Step("build", build, 300),
        pytest_step("ops", output, 180, *ops),
        pytest_step("models", output, 120, "tests/test_devices.py", "-k", "MaskRCNN and cpu" if dry else "cuda"),
    ]
    for precision in ("fp32", "bf16", "fp16"):
        name, errors = f"reference-{precision}", output / f"reference-{precision}.json"
        options = [f"--device={device}", f"--precision={precision}", f"--errors={errors}"]
        command = [python, "-m", "pytest", "tests/reference/test_replay.py", *options, *few]
        steps.append(Step(name, command, 120, errors))
    for tool in ("memcheck", "racecheck"):
        # Without torch's allocator, whose large blocks hide an access beyond a tensor.
        plain = ("env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1")
        sanitizer = (*plain, "compute-sanitizer", f"--tool={tool}", "--error-exitcode=9", "--target-processes=all")
        tests = "test_reduced_types" if dry else f"cuda and ({KERNEL_TESTS})"
        steps.append(
            pytest_step(tool, output, 150, "tests/ops/test_all_ops.py", "-k", tests, before=plain if dry else sanitizer)
        )
    return steps


def timing_steps(output: Path, dry: bool) -> list[Step]:
    """The operators in two types, and whole models by stage."""
    python, device = sys.executable, "cpu" if dry else "cuda"
    steps = []
    for dtype in ("float32", "float16"):
        result = output / f"ops-{dtype}.json"
        few = ["--seconds=0.05", "--only", "deform/small", "--peers", "grid_sample"] if dry else ["--seconds=1.5"]
        command = [python, "benchmarks/ops.py", f"--device={device}", f"--dtype={dtype}", f"--json={result}", *few]
        steps.append(Step(f"time-ops-{dtype}", command, 180, result))
    result = output / "models.json"
    command = [python, "benchmarks/models.py", f"--device={device}", f"--json={result}", f"--rounds={1 if dry else 10}"]
    return [*steps, Step("time-models", command + (["--models", "MaskRCNN"] if dry else []), 300, result)]


def learn(name: str, output: Path, dry: bool, coco: bool) -> Step:
    """Train on the images that are evaluated: the real model on COCO, or four iterations of the thin one on shapes.

    With both `dry` and `coco` one iteration of the real model, so that every option of the real run has been read.
    """
    config, metric, own = MODELS[name]
    folder = output / f"learn-{name}"
    options = {"OUTPUT_DIR": folder, "MODEL.WEIGHTS": "", "TEST.EVAL_PERIOD": 250}
    if coco:
        panoptic = {"BlendMask-Panoptic": "_panoptic_separated", "PanopticSegFormer": "_panoptic"}.get(name, "")
        images = f"('coco_2017_train{panoptic}',)"
        options |= {"DATASETS.TRAIN": images, "DATASETS.TEST": images, **BY_HEART, **own}
        options |= ONE_ITERATION if dry else {}
    else:
        thin = {"BlendMask-Panoptic": "BlendMask", "CenterMask": "CenterMask_Lite"}.get(name, name)
        config = f"shapes/{thin}_R_50_thin.yaml"
        options |= {"SOLVER.MAX_ITER": 4, "SOLVER.IMS_PER_BATCH": 2}
    words = [str(word) for option in options.items() for word in option]
    command = [sys.executable, "-m", "pentamask.tools.train_net", "--config-file", config, *words]
    return Step(f"learn-{name}", command, 170, folder / "metrics.json", metric)


def all_steps(output: Path, dry: bool, coco: bool) -> list[Step]:
    """In order of what must be known first."""
    training = [learn(name, output, dry, coco) for name in MODELS]
    return [*test_steps(output, dry), *timing_steps(output, dry), *training]


def prepare_coco(coco: Path, folder: Path) -> None:
    """Make `folder`/coco of links into `coco`, and the maps of semantic labels that Detectron2's panoptic sets need.

    They are what its datasets/prepare_panoptic_fpn.py writes: 0 things, 255 unknown.
    """
    import numpy as np
    from detectron2.data import MetadataCatalog
    from panopticapi.utils import rgb2id
    from PIL import Image

    target = folder / "coco"
    maps = target / "panoptic_stuff_train2017"
    shutil.rmtree(target, ignore_errors=True)
    maps.mkdir(parents=True)
    # COCO's archive has the panoptic PNGs beside their JSON file, and Detectron2 looks for them beside the pictures.
    pngs = next(
        path for path in (coco / "panoptic_train2017", coco / "annotations/panoptic_train2017") if path.is_dir()
    )
    for folder in (coco / "annotations", coco / "train2017", pngs):
        (target / folder.name).symlink_to(folder.resolve())
    labels = MetadataCatalog.get("coco_2017_train_panoptic_separated").stuff_dataset_id_to_contiguous_id
    panoptic = json.loads((coco / "annotations" / "panoptic_train2017.json").read_text())
    segments = {picture["image_id"]: picture["segments_info"] for picture in panoptic["annotations"]}
    for picture in json.loads((coco / "annotations" / "instances_train2017.json").read_text())["images"]:
        name = Path(picture["file_name"]).with_suffix(".png")
        semantic = np.full((picture["height"], picture["width"]), 255, dtype=np.uint8)
        if picture["id"] in segments:
            ids = rgb2id(np.array(Image.open(pngs / name)))
            for segment in segments[picture["id"]]:
                semantic[ids == segment["id"]] = labels.get(segment["category_id"], 0)
        Image.fromarray(semantic).save(maps / name)


def metrics(file: Path, name: str) -> list[tuple[int, float]]:
    """(iteration, value) of a metric in Detectron2's metrics.json, whose last line may be half written."""
    found = []
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if name in values:
            found.append((values["iteration"], values[name]))
    return found


def wait(process: subprocess.Popen, step: Step, end: float) -> str:
    """Gives "ended", "learned" as soon as the metric is reached, or "out of time"; the last two leave it running."""
    while process.poll() is None:
        if step.metric and step.result and any(value >= GOAL for _, value in metrics(step.result, step.metric)):
            return "learned"
        if time.monotonic() > end:
            return "out of time"
        time.sleep(0.2)
    return "ended"


def read_result(step: Step) -> object:
    """What the step wrote: counts of tests, the history of a metric, or JSON; None if it wrote nothing."""
    if step.result is None or not step.result.exists():
        return None
    if step.metric is not None:
        return {"metric": step.metric, "history": metrics(step.result, step.metric)}
    if step.result.suffix == ".xml":
        suite = next(ElementTree.parse(step.result).iter("testsuite"))
        return {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
    return json.loads(step.result.read_text())


def run_step(step: Step, output: Path) -> dict:
    """Run it in a process group of its own, which is ended with it; a failure is part of what it gives."""
    if step.result is not None:
        step.result.unlink(missing_ok=True)
    log, start = output / f"{step.name}.log", time.monotonic()
    found: dict = {"command": " ".join(step.command), "limit_s": step.seconds}
    with log.open("w") as file:
        try:
            process = subprocess.Popen(step.command, cwd=ROOT, stdout=file, stderr=file, start_new_session=True)
        except OSError as error:  # such as no compute-sanitizer
            return {**found, "ok": False, "ended": str(error), "seconds": 0.0, "result": None}
        found["ended"] = wait(process, step, start + step.seconds)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    found["seconds"] = round(time.monotonic() - start, 1)
    found["result"] = read_result(step)
    found["ok"] = found["ended"] == "learned" or (found["ended"] == "ended" and process.returncode == 0)
    if isinstance(found["result"], dict) and found["result"].get("tests", 1) == found["result"].get("skipped", 0):
        found.update(ok=False, ended="every test was skipped")
    if not found["ok"]:
        found["tail"] = log.read_text(errors="replace").splitlines()[-15:]
    return found


def machine() -> dict:
    """The card and what runs on it."""
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU (CPU)"
    driver = None
    if torch.cuda.is_available():
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "card": card,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "driver": driver,
        "cpus": os.cpu_count(),
    }


def summary(name: str, found: dict) -> str:
    """A cell: the figures of a step."""
    result = found["result"]
    if not isinstance(result, dict):
        return "" if found["ok"] else found["ended"]
    if "tests" in result:
        return f"{result['tests'] - result['skipped']} tests, {result['failures'] + result['errors']} failed"
    if "history" in result:
        best = max(result["history"], key=lambda entry: entry[1], default=None)
        return f"{result['metric']} {best[1]:.1f} after {best[0] + 1} iterations" if best else f"no {result['metric']}"
    if name.startswith("reference"):
        medians = [case["median"] for case in result.values()]
        return f"{len(medians)} cases, largest median error {max(medians):.1e}"
    return "below" if found["ok"] else f"{found['ended']}, as far as below"


def op_rows(result: dict) -> list[str]:
    """The table of benchmarks/ops.py."""
    peers = list(dict.fromkeys(peer for row in result["rows"] for peer in row["ms"] if peer != "pentamask"))
    lines = ["", "| shape | pass | µs | " + " | ".join(f"{peer} x" for peer in peers) + " | error |"]
    lines.append("| --- | --- |" + " ---: |" * (len(peers) + 2))
    for row in result["rows"]:
        ours = row["ms"]["pentamask"]
        ratios = [f"{row['ms'][peer] / ours:.2f}" if peer in row["ms"] else "" for peer in peers]
        cells = [row["shape"], row["pass"], f"{ours * 1e3:.1f}", *ratios, f"{row['error']['pentamask']:.1e}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def model_rows(result: dict) -> list[str]:
    """The table of benchmarks/models.py: milliseconds, and how many times faster each variant is."""
    variants = list(dict.fromkeys(v for row in result["models"].values() for v in row["seconds"] if v != "plain"))
    lines = ["", "| model | plain ms | " + " | ".join(f"{variant} x" for variant in variants) + " |"]
    lines.append("| --- |" + " ---: |" * (len(variants) + 1))
    for name, row in result["models"].items():
        ratios = [f"{row['ratio_to_plain'][v]:.2f}" if v in row["ratio_to_plain"] else "" for v in variants]
        lines.append("| " + " | ".join([name, f"{1e3 * row['seconds']['plain']:.1f}", *ratios]) + " |")
    return lines


def make_table(report: dict) -> str:
    """Markdown of everything."""
    where = report["machine"]
    lines = [f"{where['card']}, torch {where['torch']}, CUDA {where['cuda']}, driver {where['driver']}:", ""]
    lines += ["| step | seconds | passed | figures |", "| --- | ---: | --- | --- |"]
    for name, found in report["steps"].items():
        lines.append(f"| {name} | {found['seconds']} | {'yes' if found['ok'] else 'NO'} | {summary(name, found)} |")
    for name, found in report["steps"].items():
        if name.startswith("time-ops") and found["result"] is not None:
            lines += ["", f"Operators, {name.removeprefix('time-ops-')}, medians (`benchmarks/ops.py --device cuda`):"]
            lines += op_rows(found["result"])
        if name == "time-models" and found["result"] is not None:
            lines += [
                "",
                "Whole models (`benchmarks/models.py --device cuda`; stages in its JSON):",
                *model_rows(found["result"]),
            ]
    return "\n".join(lines) + "\n"


def write_table(table: str, readme: Path) -> None:
    """Put `table` between the marks in `readme`."""
    text = readme.read_text()
    assert all(text.count(mark) == 1 for mark in MARKS), f"{readme} lacks the marks {MARKS}"
    pattern = re.escape(MARKS[0]) + ".*" + re.escape(MARKS[1])
    readme.write_text(re.sub(pattern, lambda _: f"{MARKS[0]}\n{table}\n{MARKS[1]}", text, flags=re.DOTALL))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="every step on the CPU, tiny")
    parser.add_argument(
        "--coco", type=Path, metavar="DIR", help="the folder that holds COCO's train2017 and annotations"
    )
    parser.add_argument(
        "--only", nargs="+", metavar="STEP", help="steps whose name starts so; others keep their results"
    )
    parser.add_argument(
        "--minutes", type=float, default=30.0, help="for all steps together; the last ones get the rest"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "gpu", metavar="DIR")
    args = parser.parse_args()
    if not args.dry_run and not torch.cuda.is_available():
        print("torch finds no GPU here; --dry-run walks the steps without one.", file=sys.stderr)
        return 1
    output = args.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    os.environ["DETECTRON2_DATASETS"] = str(output / "datasets")
    if args.coco is not None:
        prepare_coco(args.coco, output / "datasets")
    file = output / "gpu.json"
    report = json.loads(file.read_text()) if args.only and file.exists() else {"steps": {}}
    report |= {"machine": machine(), "dry_run": args.dry_run}
    end = time.monotonic() + 60 * args.minutes
    for step in all_steps(output, args.dry_run, args.coco is not None):
        if args.only is None or step.name.startswith(tuple(args.only)):
            step = step._replace(seconds=max(1, min(step.seconds, int(end - time.monotonic()))))
            print(f"{step.name}: at most {step.seconds} s", flush=True)
            report["steps"][step.name] = run_step(step, output)
            file.write_text(json.dumps(report, indent=1))
    table = make_table(report)
    print(table, f"Everything: {file}", sep="\n")
    (output / "table.md").write_text(table)
    if not args.dry_run:
        write_table(table, README)
    return 0 if all(found["ok"] for found in report["steps"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
