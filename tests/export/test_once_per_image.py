"""The UNet that computes once for all branches what no prompt has reached: against diffusers' own on every row."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel

from engines.networks import GUIDED_UNET, UNET, with_derived
from export.onnx_file import example
from export.wrappers import Unet, in_each_branch

WIDTH, GUIDANCE = 16, 8
CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
FIRST = "down_blocks.0.resnets.0", "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
MODELS = {
    "cross-attention at once": ({}, FIRST),
    "cross-attention in the second block": (
        {"down_block_types": (PLAIN, CROSS), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "layers_per_block": 2},
        (
            "down_blocks.0.resnets.0",
            "down_blocks.0.resnets.1",
            "down_blocks.1.resnets.0",
            "down_blocks.1.attentions.0.transformer_blocks.0.attn1",
        ),
    ),
    "linear projections, two blocks": ({"use_linear_projection": True, "transformer_layers_per_block": 2}, FIRST),
    "cross-attention alone": ({"only_cross_attention": True}, FIRST[:1]),
    "guidance as an input": ({"time_cond_proj_dim": GUIDANCE}, FIRST),
    "another kind of block": (
        {"down_block_types": ("AttnDownBlock2D", CROSS), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")},
        (),
    ),
}


def unet_of(options) -> Unet:
    torch.manual_seed(0)
    config = {
        "sample_size": 8,
        "block_out_channels": (16, 32),
        "down_block_types": (CROSS, PLAIN),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 8,
        "norm_num_groups": 8,
    }
    return Unet(UNet2DConditionModel(**config | options)).eval().requires_grad_(False)


@pytest.mark.parametrize("branches", [1, 2])
@pytest.mark.parametrize("options, names", MODELS.values(), ids=MODELS)
def test_it_equals_diffusers_on_every_row(options, names, branches):
    unet, images = unet_of(options), 3
    spec = GUIDED_UNET if unet.model.config.time_cond_proj_dim else UNET
    sizes = with_derived({"B": images, "C": branches, "H": 8, "W": 12, "D": WIDTH, "G": GUIDANCE})
    inputs = example(spec, sizes)
    rows = {name: tensor if name == "encoder_hidden_states" else torch.cat([tensor] * branches) for name, tensor in inputs.items()}
    expected = unet.model(**rows, return_dict=False)[0]
    calls: dict[str, int] = {}
    for name in names:
        unet.model.get_submodule(name).register_forward_pre_hook(
            lambda module, given, name=name: calls.update({name: len(given[0])})
        )
    torch.testing.assert_close(unet.for_inference()(*inputs.values()), expected, rtol=1e-4, atol=1e-5)
    assert calls == dict.fromkeys(names, images)


def test_the_wrapper_itself_computes_every_row():
    """What exports are compared with has nothing of the change."""
    unet = unet_of({})
    before, weights = dict(unet.model.named_modules()), {id(weight) for weight in unet.parameters()}
    shared = unet.for_inference()
    assert dict(unet.model.named_modules()) == before
    assert {id(weight) for weight in shared.parameters()} == weights
    inputs = example(UNET, with_derived({"B": 2, "C": 2, "H": 8, "W": 8, "D": WIDTH}))
    calls = []
    unet.model.down_blocks[0].resnets[0].register_forward_pre_hook(lambda module, given: calls.append(len(given[0])))
    unet(*inputs.values())
    assert calls == [4]


def test_images_of_a_branch_stay_together():
    assert in_each_branch(torch.tensor([[1], [2], [3]]), 6).flatten().tolist() == [1, 2, 3, 1, 2, 3]
