import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pentamask.yolact.anchors import decode_boxes, encode_boxes, prior_boxes


def test_order_is_row_column_scale_ratio():
    priors = prior_boxes(((1, 2), (2, 1)), ((10, 20), (40, 50)), (1.0, 4.0), 100, False)
    assert priors.shape == (2 * 4 + 2 * 4, 4)
    first = torch.tensor([[0.25, 0.5, 0.1, 0.1], [0.25, 0.5, 0.2, 0.05], [0.25, 0.5, 0.2, 0.2], [0.25, 0.5, 0.4, 0.1]])
    torch.testing.assert_close(priors[:4], first.double())
    assert priors[4:8, 0].tolist() == [0.75] * 4  # the next column
    assert priors[8:, 1].tolist() == [0.25] * 4 + [0.75] * 4  # the rows of the second level
    assert priors[8].tolist() == [0.5, 0.25, 0.4, 0.4]


def test_square_anchors_take_the_width_for_the_height():
    priors = prior_boxes(((1, 1),), ((10,),), (1.0, 4.0), 100, True)
    torch.testing.assert_close(priors[:, 2:], torch.tensor([[0.1, 0.1], [0.2, 0.2]]).double())


def test_decoding_by_hand():
    priors = torch.tensor([[0.5, 0.5, 0.2, 0.4]])
    loc = torch.tensor([[1.0, -1.0, 0.0, 0.0]])
    torch.testing.assert_close(decode_boxes(loc, priors), torch.tensor([[0.42, 0.26, 0.62, 0.66]]))
    wider = decode_boxes(torch.tensor([[0.0, 0.0, 5 * 0.6931472, 0.0]]), priors)
    torch.testing.assert_close(wider, torch.tensor([[0.3, 0.3, 0.7, 0.7]]))


def test_decoding_inverts_encoding():
    torch.manual_seed(0)
    corners = torch.rand(50, 2)
    boxes = torch.cat((corners, corners + 0.05 + torch.rand(50, 2)), dim=1)
    priors = torch.rand(50, 4) + 0.1
    torch.testing.assert_close(decode_boxes(encode_boxes(boxes, priors), priors), boxes)


def test_levels_without_scales_are_refused(tiny_cfg):
    from detectron2.modeling import build_model

    tiny_cfg.MODEL.YOLACT.ANCHOR_SCALES = [[16], [24]]
    with pytest.raises(ValueError, match="ANCHOR_SCALES needs 3 lists"):
        build_model(tiny_cfg)


def test_tracing_leaves_no_fake_tensor_behind():
    arguments = ((2, 3),), ((12,),), (1.0,), 60, True
    with FakeTensorMode():
        assert prior_boxes(*arguments).shape == (6, 4)
    boxes = prior_boxes(*arguments)
    assert type(boxes) is torch.Tensor and boxes[0].tolist() == pytest.approx([1 / 6, 1 / 4, 0.2, 0.2])
