"""The parts between backbone and merging, against their definitions."""

import math

import pytest
import torch
import torch.nn.functional as F

from pentamask.panoptic_segformer.deformable_attention import Memory, MultiScaleDeformableAttention
from pentamask.panoptic_segformer.encoder import DeformableEncoder, sine_positions
from pentamask.panoptic_segformer.location_decoder import LocationDecoder, inverse_sigmoid
from pentamask.panoptic_segformer.mask_decoder import AttentionMask, MaskAttention, MaskDecoder

SHAPES = [(6, 8), (3, 4), (2, 2)]


def memory(batch=1, channels=32):
    torch.manual_seed(0)
    shapes = [*SHAPES, (1, 1)]
    tokens = torch.randn(batch, sum(h * w for h, w in shapes), channels, dtype=torch.float64)
    padding = torch.zeros(tokens.shape[:2], dtype=torch.bool)
    return Memory(tokens, shapes, padding, torch.ones(batch, len(shapes), 2))


def test_sine_positions_by_hand():
    padding = torch.zeros(1, 4, 6, dtype=torch.bool)
    padding[:, 3:] = True  # the last row
    encoded = sine_positions(padding, 8)[0]
    row, column = 1, 4
    y, x = ((v - 0.5) / (total + 1e-6) * 2 * math.pi for v, total in ((row + 1, 3), (column + 1, 6)))
    expected = [f(v / 10000 ** (2 * i / 4)) for v in (y, x) for i in (0, 1) for f in (math.sin, math.cos)]
    torch.testing.assert_close(encoded[row, column], torch.tensor(expected))


def test_inverse_sigmoid_is_bounded():
    x = torch.tensor([0.0, 0.3, 1.0, 1.2])
    torch.testing.assert_close(
        inverse_sigmoid(x), torch.tensor([math.log(1e-5), math.log(3 / 7), -math.log(1e-5), -math.log(1e-5)])
    )


def test_deformable_attention_starts_in_the_directions_of_its_heads():
    attention = MultiScaleDeformableAttention(32, 8, 2, 3)
    attention.reset_parameters()
    offsets = attention.sampling_offsets.bias.view(8, 2, 3, 2)
    torch.testing.assert_close(offsets[1, 0, 2], torch.tensor([3.0, 3.0]))  # 45 degrees, third point
    torch.testing.assert_close(offsets[2, 1, 0], torch.tensor([0.0, 1.0]))
    assert not attention.sampling_offsets.weight.any() and not attention.attention_weights.weight.any()


def test_boxes_start_an_eighth_of_the_image_wide():
    """sigmoid(-2) = 0.12 in the first layer; the later ones start by changing nothing."""
    sizes = {"channels": 32, "hidden_channels": 32, "num_heads": 4, "num_levels": 4, "num_points": 2, "dropout": 0.0}
    decoder = LocationDecoder(num_queries=5, num_classes=3, num_layers=2, **sizes)
    assert decoder.reg_branches[0][-1].bias.tolist() == [0, 0, -2, -2]
    assert decoder.reg_branches[1][-1].bias.tolist() == [0, 0, 0, 0]
    torch.testing.assert_close(decoder.cls_branches[0].bias.sigmoid(), torch.full((3,), 0.01))


def test_level_embeddings_start_with_unit_variance():
    torch.manual_seed(0)
    sizes = {"channels": 256, "hidden_channels": 8, "num_heads": 4, "num_layers": 0, "num_points": 2, "dropout": 0.0}
    embeds = DeformableEncoder(in_channels=[4, 8, 8], **sizes).level_embeds
    assert embeds.std().item() == pytest.approx(1, abs=0.1) and embeds.mean().item() == pytest.approx(0, abs=0.1)


def test_padding_reaches_no_query():
    attention = MultiScaleDeformableAttention(32, 4, 4, 2).double()
    attention.reset_parameters()
    source = memory()
    source.padding[:, -1] = True
    references = torch.full((1, 5, 4, 2), 0.5, dtype=torch.float64)
    query = torch.randn(1, 5, 32, dtype=torch.float64)
    before = attention(query, references, source)
    source.tokens[:, -1] = 1e6
    torch.testing.assert_close(attention(query, references, source), before)


def test_encoder_levels_and_valid_ratios():
    encoder = DeformableEncoder(
        in_channels=[4, 8], channels=32, hidden_channels=32, num_layers=1, num_heads=4, num_points=2, dropout=0.0
    )
    padding = torch.zeros(2, 40, 48, dtype=torch.bool)
    padding[1, 24:] = padding[1, :, 32:] = True
    encoded = encoder([torch.randn(2, 4, 5, 6), torch.randn(2, 8, 3, 3)], padding)
    assert encoded.shapes == [(5, 6), (3, 3), (2, 2)]
    torch.testing.assert_close(encoded.valid_ratios[0], torch.ones(3, 2))
    torch.testing.assert_close(encoded.valid_ratios[1, 0], torch.tensor([4 / 6, 3 / 5]))
    tokens, shapes = encoded.image(1, 2)
    assert shapes == [(3, 4), (2, 2)] and tokens.shape == (16, 32)
    torch.testing.assert_close(tokens[4], encoded.tokens[1, 6])  # second row of the first level


def test_no_gradient_passes_from_a_box_to_earlier_layers():
    decoder = LocationDecoder(
        num_queries=5,
        num_classes=3,
        channels=32,
        hidden_channels=32,
        num_layers=3,
        num_heads=4,
        num_levels=4,
        num_points=2,
        dropout=0.0,
    ).double()
    locations = decoder(memory(batch=2))
    assert locations.logits.shape == (3, 2, 5, 3) and locations.boxes.shape == (3, 2, 5, 4)
    locations.boxes[2].sum().backward()
    assert not decoder.reg_branches[1][-1].bias.grad.any() and decoder.reg_branches[2][-1].bias.grad.all()


def test_masks_equal_resizing_before_adding():
    """The paper resizes and concatenates all channels; here they are added up first."""
    torch.manual_seed(0)
    attention = AttentionMask(32, 4, 3).double()
    x, tokens = torch.randn(5, 32, dtype=torch.float64), memory().tokens[0, :-1]
    q, k = (linear(v).view(-1, 4, 8).transpose(0, 1) for linear, v in ((attention.q, x), (attention.k, tokens)))
    logits = (q @ k.mT * 8**-0.5).permute(1, 2, 0)  # (Q, S, heads)
    maps, start = [], 0
    for linear, (h, w) in zip(attention.level_linears, SHAPES):
        level = F.relu(linear(logits[:, start : start + h * w])).transpose(1, 2).view(-1, 4, h, w)
        maps.append(F.interpolate(level, SHAPES[0], mode="bilinear", align_corners=False))
        start += h * w
    expected = F.relu(attention.linear(torch.cat(maps, dim=1).permute(0, 2, 3, 1)))[..., 0]
    assert expected.any()
    torch.testing.assert_close(attention(x, tokens, SHAPES), expected)


def test_attention_is_the_same_with_and_without_masks():
    torch.manual_seed(0)
    attention = MaskAttention(32, 4, 3).double()
    x, tokens = torch.randn(5, 32, dtype=torch.float64), memory().tokens[0, :-1]
    with_masks, masks = attention(x, tokens, SHAPES, True)
    without, none = attention(x, tokens, SHAPES, False)
    torch.testing.assert_close(with_masks, without)
    assert masks.shape == (5, 6, 8) and none is None
    torch.testing.assert_close(masks, AttentionMask.forward(attention, x, tokens, SHAPES))


@pytest.mark.parametrize("num_queries", [0, 3])
def test_mask_decoder(num_queries):
    torch.manual_seed(0)
    decoder = MaskDecoder(
        channels=32, hidden_channels=32, num_blocks=2, num_heads=4, num_levels=3, self_attention=True
    ).double()
    x = torch.randn(num_queries, 32, dtype=torch.float64)
    tokens = memory().tokens[0, :-1]
    queries, masks = decoder(x, tokens, SHAPES, x, with_block_masks=True)
    assert len(queries) == 2 and [m.shape for m in masks] == [(num_queries, 6, 8)] * 3
    torch.testing.assert_close(decoder(x, tokens, SHAPES, x)[1][0], masks[-1])
    # The position is part of the stream that goes on, not only of the attention.
    block = decoder.blocks[0]
    torch.testing.assert_close(queries[0], block(x + x, tokens, SHAPES, False)[0])
