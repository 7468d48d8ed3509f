"""The config tool shows, explains and compares, and finds keys that nothing reads."""

import sys

import pytest
from thin_models import THIN_MODELS

from pentamask import model_zoo
from pentamask.engine.checks import BadInput
from pentamask.engine.config_checks import check_lazy_values
from pentamask.engine.load_config import load_any_config
from pentamask.tools import collect_env, config, list_models


def said(*words: str) -> str:
    return config.main(config.get_parser().parse_args(list(words)))


def test_show():
    assert "NUM_CLASSES: 3" in said("show", "BlendMask/R_50_1x.yaml", "MODEL.FCOS.NUM_CLASSES", "3")
    assert "max_iter: 7" in said("show", "BlendMask/R_50_1x.py", "train.max_iter=7")
    for name in THIN_MODELS:
        assert f"META_ARCHITECTURE: {name.split('_')[0]}\n" in said("show", f"shapes/{name}.yaml")


def test_key():
    lines = said("key", "SOLVER.BEST_METRIC").splitlines()
    assert lines[-1] == "SOLVER.BEST_METRIC: ''" and "Newest checkpoints to keep" in lines[0]
    assert "# Half side of the centre region, in strides." in said("key", "MODEL.FCOS.POS_RADIUS")
    assert said("key", "MODEL.PIXEL_STD").startswith("# When using pre-trained models in Detectron1")  # Detectron2's
    assert len(said("key", "SOLVER.EARLY_STOPPING").splitlines()) >= 2
    with pytest.raises(BadInput, match="no key SOLVER.BEST_METRICS. Did you mean SOLVER.BEST_METRIC"):
        said("key", "SOLVER.BEST_METRICS")


def test_diff():
    lines = said("diff", "BlendMask/R_50_1x.yaml", "BlendMask/R_50_3x.yaml").splitlines()
    assert lines == ["SOLVER.MAX_ITER: 90000 -> 270000", "SOLVER.STEPS: (60000, 80000) -> (210000, 250000)"]
    assert said("diff", "BlendMask/R_50_1x.py", "BlendMask/R_50_1x.py") == "No key differs."
    with pytest.raises(BadInput, match="no keys in common"):
        said("diff", "BlendMask/R_50_1x.py", "BlendMask/R_50_1x.yaml")


@pytest.mark.parametrize("name", THIN_MODELS)
def test_unread(name):
    words = ["unread", f"shapes/{name}.yaml"]
    other = "MODEL.RETINANET.NUM_CONVS"
    assert f"{other}: 5" in said(*words, other, "5").splitlines()
    assert "MODEL.RESNETS" not in said(*words)


@pytest.mark.parametrize("name", [name for name in model_zoo.list_models() if name.endswith(".py")])
def test_unread_of_a_lazy_config(name, tmp_path, caplog):
    assert said("unread", name) == "Every key that is set is read."
    assert said("unread", name, "model.anything=1") == "Every key that is set is read."  # an argument of the model
    text = [f"from detectron2.config import LazyConfig\ncfg = LazyConfig.load({model_zoo.get_config_file(name)!r})"]
    text += [f"{part} = cfg.{part}" for part in ("model", "dataloader", "optimizer", "lr_multiplier", "train")]
    text += ["del cfg", "train.evl_period = 5", "train.ddp.bucket_cap_mb = 3", "dataloader.val = dict(a=1)"]
    (tmp_path / "mine.py").write_text("\n".join([*text, "extra = dict(b=[2])"]))
    lines = said("unread", str(tmp_path / "mine.py")).splitlines()
    assert sorted(lines) == ["dataloader.val.a: 1", "extra.b: [2]", "train.evl_period: 5"]
    check_lazy_values(load_any_config(str(tmp_path / "mine.py"), ["train.device=cpu"]))
    (message,) = caplog.messages
    assert message.startswith("Nothing reads train.evl_period. Did you mean train.eval_period")


def test_list_models_filter():
    lines = list_models.find("yolact/yolact_b").splitlines()
    assert len(lines) == 3 and lines[2].replace(" ", "").split("|")[1:4] == ["YOLACT/yolact_base.yaml", "32.3", "29.8"]
    with pytest.raises(BadInput, match="--filter nothing"):
        list_models.find("nothing")


def test_collect_env():
    text = collect_env.describe()
    words = ("BlendMask", "CenterMask", "YOLACT", "MaskRCNN", "PanopticSegFormer", "ms_deform_attn", "instruction set")
    assert all(word in text for word in words)


def test_collect_env_refuses_what_it_does_not_know(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["collect_env", "--gpu"])
    with pytest.raises(SystemExit):
        collect_env.cli()
    assert "unrecognized arguments: --gpu" in capsys.readouterr().err
