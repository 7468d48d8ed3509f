"""analyze_model and benchmark on every thin model: their parts add up, and one table has all of them."""

import json
import re

import pytest
from thin_models import THIN_MODELS, build_thin, scenes
from torch import nn

from pentamask.engine.checks import BadInput
from pentamask.engine.stages import STAGES
from pentamask.tools import analyze_model, benchmark

CONFIGS = [f"shapes/{name}.yaml" for name in THIN_MODELS]
CPU = ["--opts", "MODEL.DEVICE", "cpu"]


def test_analyze_model_prints_one_table(capsys):
    args = analyze_model.get_parser().parse_args(["--config-file", *CONFIGS, *CPU])
    results = analyze_model.main(args)
    for name, config in zip(THIN_MODELS, CONFIGS):
        _, model = build_thin(name)
        counts = results[config]
        assert counts["parameters"]["all"] == sum(p.numel() for p in model.parameters())
        for count in counts.values():
            assert count["all"] == pytest.approx(sum(count.values()) - count["all"])
            assert {"backbone", "neck", "heads"} <= set(count)  # masks only where something is found
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("| shapes/") for line in lines) == 5


def test_analyze_counts_what_is_worked_out_by_hand():
    class Net(nn.Module):
        stages = {"mask_part": "masks"}

        def __init__(self):
            super().__init__()
            self.backbone = nn.Conv2d(3, 4, 3, padding=1, bias=False)
            self.mask_part = nn.Conv2d(4, 2, 1, bias=False)

        def forward(self, batched_inputs):
            return self.mask_part(self.backbone(batched_inputs[0]["image"][None].float()))

    counts = analyze_model.analyze(Net().eval(), [{"image": scenes(1)[0][:, :8, :10]}])
    assert counts["parameters"] == {"all": 116, "backbone": 108, "masks": 8}
    assert counts["flops"] == {"all": 116 * 80, "backbone": 108 * 80, "masks": 8 * 80}
    assert counts["activations"] == {"all": 6 * 80, "backbone": 4 * 80, "masks": 2 * 80}


def test_benchmark_prints_one_table(tmp_path, capsys):
    words = ["--rounds", "1", "--batch-size", "1", "--modes", "fp32", "amp", "--json", str(tmp_path / "figures.json")]
    args = benchmark.get_parser().parse_args(["--config-file", *CONFIGS, *words, "--device", "cpu"])
    results = benchmark.main(args)
    assert list(results) == [f"{config} {mode}" for config in CONFIGS for mode in ("fp32", "amp")]
    for figures in results.values():
        assert {"latency", "throughput", "memory", "preprocess", "backbone", "masks"} <= set(figures)
        assert all(figures[name] > 0 for name in figures) and set(figures) <= {
            *STAGES,
            "latency",
            "throughput",
            "memory",
        }
    assert "NMS" in results["shapes/YOLACT_R_50_thin.yaml fp32"]  # its own, which is not Detectron2's
    assert json.loads((tmp_path / "figures.json").read_text())["models"] == results
    assert len(re.findall(r"^\| shapes/", capsys.readouterr().out, re.MULTILINE)) == 10


@pytest.mark.parametrize("tool", [analyze_model, benchmark])
def test_mistakes(tool):
    with pytest.raises(BadInput, match="nothing.yaml: no such file"):
        tool.main(tool.get_parser().parse_args(["--config-file", "nothing.yaml"]))


def test_weights_among_the_options_count(tmp_path):
    words = ["--config-file", CONFIGS[0], "--opts", "MODEL.WEIGHTS", str(tmp_path / "no.pth")]
    with pytest.raises(BadInput, match="MODEL.WEIGHTS: .*no.pth.* does not exist"):
        analyze_model.main(analyze_model.get_parser().parse_args(words))


def test_lazy_configs(lazy, capsys):
    _, name, *overrides = lazy("YOLACT/yolact_resnet50.py")
    analyze_model.main(analyze_model.get_parser().parse_args(["--config-file", name, "--opts", *overrides]))
    words = ["--config-file", name, "--rounds", "1", "--device", "cpu", "--opts", *overrides]
    benchmark.main(benchmark.get_parser().parse_args(words))
    assert capsys.readouterr().out.count("| YOLACT/yolact_resnet50.py") == 2
