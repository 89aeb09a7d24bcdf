"""The U-Net and guidance against the outputs of the networks in existing checkpoints."""
import numpy as np
import pytest
import torch

from parity import FIXTURES, state_dict

from denoising_diffusion_pytorch import Unet
from denoising_diffusion_pytorch.guidance import combine, project


@pytest.fixture(scope="module")
def unet():
    unet = Unet(48, 31, dim_mults=(1, 2, 4), channels=4, attn_dim_head=32, attn_heads=4).eval()
    unet.load_state_dict(state_dict("unet.shapes.json"))
    return unet.requires_grad_(False)


@pytest.fixture(scope="module")
def arrays():
    return {key: torch.from_numpy(value) for key, value in np.load(FIXTURES / "unet.npz").items()}


def relative(ours, theirs):
    return ((ours - theirs).norm() / theirs.norm()).item()


def test_number_of_parameters(unet):
    assert round(sum(p.numel() for p in unet.parameters()) / 1e6, 2) == 6.37


def test_conditional_and_null_outputs_match_in_one_batch(unet, arrays):
    cond, null = unet.forward_both(arrays["x"], arrays["t"], arrays["classes"])
    assert relative(cond, arrays["cond"]) < 1e-4
    assert relative(null, arrays["null"]) < 1e-4


def test_evaluation_keeps_classes_and_training_drops_them(unet, arrays):
    inputs = arrays["x"], arrays["t"], arrays["classes"]
    assert relative(unet(*inputs), arrays["cond"]) < 1e-4
    assert relative(unet(*inputs, drop_mask=torch.ones(3, dtype=torch.bool)), arrays["null"]) < 1e-4
    unet.train()
    try:
        torch.manual_seed(0)
        seen = {tuple(torch.isclose(unet(*inputs), arrays["null"], atol=1e-3).flatten(1).all(dim=1).tolist())
                for _ in range(8)}
    finally:
        unet.eval()
    assert len(seen) > 1


def test_guided_outputs_match(unet, arrays):
    inputs = arrays["x"], arrays["t"], arrays["classes"]
    guided = unet.forward_with_cond_scale(*inputs, cond_scale=6.0, rescaled_phi=0.7)
    assert relative(guided, arrays["guided_6_phi07"]) < 1e-4
    guided = unet.forward_with_cond_scale(*inputs, cond_scale=3.0, rescaled_phi=0.0, remove_parallel_component=False)
    assert relative(guided, arrays["guided_3_plain"]) < 1e-4


def test_cond_scale_one_makes_one_call_of_the_batch_as_it_is(unet, arrays, monkeypatch):
    batches = []
    monkeypatch.setattr(unet, "init_conv", _Spy(unet.init_conv, batches))
    output = unet.forward_with_cond_scale(arrays["x"], arrays["t"], arrays["classes"], cond_scale=1.0)
    assert batches == [3]
    assert relative(output, arrays["cond"]) < 1e-4


class _Spy(torch.nn.Module):
    def __init__(self, inner, batches):
        super().__init__()
        self.inner, self.batches = inner, batches

    def forward(self, x):
        self.batches.append(x.shape[0])
        return self.inner(x)


def test_projection_is_parallel_and_leaves_an_orthogonal_rest():
    generator = torch.Generator().manual_seed(0)
    x, direction = torch.randn(2, 5, 4, 3, 3, generator=generator)
    parallel = project(x, direction)
    rest = x - parallel
    assert torch.allclose((rest * direction).flatten(1).sum(dim=1), torch.zeros(5), atol=1e-5)
    assert torch.allclose(project(direction, direction), direction, atol=1e-6)


def test_full_rescaling_gives_the_conditional_standard_deviation():
    generator = torch.Generator().manual_seed(0)
    cond, null = torch.randn(2, 5, 4, 3, 3, generator=generator)
    guided = combine(cond, null, 8.0, rescaled_phi=1.0)
    assert torch.allclose(guided.flatten(1).std(dim=1), cond.flatten(1).std(dim=1), rtol=1e-5)


@pytest.mark.parametrize("dim_mults", [(1,), (1, 2), (1, 2, 2, 3)])
def test_other_shapes_run(dim_mults):
    unet = Unet(8, 3, dim_mults=dim_mults, channels=2, attn_dim_head=8, attn_heads=2)
    x = torch.randn(2, 2, 16, 16)
    assert unet(x, torch.tensor([0, 5]), torch.tensor([0, 2])).shape == x.shape
