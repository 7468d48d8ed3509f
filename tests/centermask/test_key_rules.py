import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model


def save(tmp_path, state_dict, **extra):
    path = tmp_path / "weights.pth"
    torch.save({"model": state_dict, **extra}, path)
    return str(path)


def filled(model, value):
    return {k: torch.full_like(v, value) if v.is_floating_point() else v for k, v in model.state_dict().items()}


def test_a_file_of_the_authors(tiny_cfg, tmp_path):
    """Written by an older Detectron2, from a wrapped model, in the midst of training."""
    model = build_model(tiny_cfg)
    file = {f"module.{k}": v for k, v in filled(model, 0.5).items() if "num_batches" not in k}
    file["module.pixel_mean"] = file["module.pixel_std"] = torch.zeros(3, 1, 1)
    DetectionCheckpointer(model).load(save(tmp_path, file, iteration=1, optimizer={}))
    assert all((v == 0.5).all() for v in model.state_dict().values() if v.is_floating_point())
    assert model.pixel_mean.flatten().tolist() == pytest.approx(tiny_cfg.MODEL.PIXEL_MEAN)


@pytest.mark.parametrize("prefix", ["", "backbone.bottom_up."])
def test_an_imagenet_file_of_the_body(tiny_cfg, tmp_path, prefix):
    model = build_model(tiny_cfg)
    body = {prefix + k: v for k, v in filled(model.backbone.bottom_up, 0.5).items()}
    body |= {"classifier.weight": torch.zeros(1000, 512)}
    DetectionCheckpointer(model).load(save(tmp_path, body))
    assert all((v == 0.5).all() for v in model.backbone.bottom_up.state_dict().values() if v.is_floating_point())
    assert not (model.proposal_generator.fcos_head.bbox_pred.weight == 0.5).any()


def test_a_file_of_another_body_is_refused(tiny_cfg, tmp_path):
    path = save(tmp_path, build_model(tiny_cfg).state_dict())
    tiny_cfg.MODEL.VOVNET.CONV_BODY = "V-19-slim-eSE"
    with pytest.raises(ValueError, match="does not belong to the CenterMask"):
        DetectionCheckpointer(build_model(tiny_cfg)).load(path)
