"""The U-Net and guidance against the outputs of the networks in existing checkpoints."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from parity import FIXTURES, state_dict

from denoising_diffusion_pytorch import Unet
from denoising_diffusion_pytorch.guidance import combine, project
from denoising_diffusion_pytorch.rms_norm import conv_rms_norm_silu, has_kernels, rms_norm
from denoising_diffusion_pytorch.unet import LinearAttention, UpsampledConv


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


@pytest.mark.parametrize("rescaled_phi", [0.0, 0.7])
@pytest.mark.parametrize("remove_parallel_component", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_guidance_of_outputs_in_half_precision_rounds_no_more_than_in_float32(dtype, remove_parallel_component,
                                                                            rescaled_phi):
    generator = torch.Generator().manual_seed(0)
    cond = torch.randn(5, 4, 8, 8, generator=generator)
    null = cond + 0.01 * torch.randn(5, 4, 8, 8, generator=generator)      # close together, as late in sampling
    cond, null = cond.to(dtype), null.to(dtype)
    guided = combine(cond, null, 8.0, rescaled_phi, remove_parallel_component)
    exact = combine(cond.double(), null.double(), 8.0, rescaled_phi, remove_parallel_component)
    assert guided.dtype == torch.float32 and exact.dtype == torch.float64
    assert relative(guided, exact) < 1e-6


@pytest.mark.parametrize("dim_mults", [(1,), (1, 2), (1, 2, 2, 3)])
def test_other_shapes_run(dim_mults):
    unet = Unet(8, 3, dim_mults=dim_mults, channels=2, attn_dim_head=8, attn_heads=2)
    x = torch.randn(2, 2, 16, 16)
    assert unet(x, torch.tensor([0, 5]), torch.tensor([0, 2])).shape == x.shape


# ---------------------------------------------------------- the fast forms against the obvious ones, in float64

def gradients(output, *inputs):
    weights = torch.randn(output.shape, dtype=output.dtype, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad((output * weights).sum(), inputs)


def drawn(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("modulated", [False, True])
def test_rms_norm_is_its_formula_and_so_are_its_gradients(size, memory_format, silu, modulated):
    torch.manual_seed(0)
    x = torch.randn(3, 6, size, size, dtype=torch.float64).to(memory_format=memory_format).requires_grad_()
    inputs = (x, drawn(1, 6, 1, 1), drawn(3, 12)) if modulated else (x, drawn(1, 6, 1, 1))
    expected = rms_norm_as_published(*inputs, silu=silu)
    found = rms_norm(*inputs, silu=silu)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(gradients(found, *inputs), gradients(expected, *inputs)):
        torch.testing.assert_close(ours, theirs)


def rms_norm_as_published(x, gain, scale_shift=None, *, silu):
    y = F.normalize(x, dim=1) * x.shape[1] ** 0.5 * gain
    if scale_shift is not None:
        y = y * (1 + scale_shift[:, :x.shape[1], None, None]) + scale_shift[:, x.shape[1]:, None, None]
    return F.silu(y) if silu else y


@pytest.mark.cuda
@pytest.mark.parametrize("dtype, bound", [(torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
@pytest.mark.parametrize("modulated", [False, True])
def test_the_kernels_give_what_the_formula_gives(dtype, bound, modulated):
    """Also for channels that are no power of two, and pixels that fill no tile. Errors are shares of the norm."""
    torch.manual_seed(0)
    conv, x = torch.nn.Conv2d(8, 48, 3, padding=1), torch.randn(5, 8, 9, 7)
    gain, scale_shift = torch.randn(1, 48, 1, 1), 0.5 * torch.randn(5, 96) if modulated else None
    inputs = [x, conv.weight, conv.bias, gain] + ([scale_shift] if modulated else [])
    results = []
    for device, kind in (("cpu", torch.float64), ("cuda", dtype)):
        own = [value.detach().to(device, kind).requires_grad_() for value in inputs]
        own_x = own[0].contiguous(memory_format=torch.channels_last)
        if device == "cpu":
            y = rms_norm_as_published(F.conv2d(own_x, own[1], own[2], padding=1), *own[3:], silu=True)
        else:
            layer = torch.nn.Conv2d(8, 48, 3, padding=1)
            layer.weight, layer.bias = (torch.nn.Parameter(value) for value in own[1:3])
            own[1:3] = layer.weight, layer.bias
            assert has_kernels(own_x)
            y = conv_rms_norm_silu(layer, own_x, own[3], own[4] if modulated else None)
        results.append([value.double().cpu() for value in (y, *gradients(y.cpu(), *own))])
    for found, expected in zip(results[1], results[0]):
        assert relative(found, expected) < bound


def test_the_kernels_compile_for_every_generation_of_cards():
    """No card is needed for that. Code after a return, for one, is compiled where Python would not reach it."""
    triton = pytest.importorskip("triton")
    from denoising_diffusion_pytorch import rms_norm_kernels as kernels
    pointers = {"sums_ptr": "*fp32", "inverse_ptr": "*fp32", "positions": "i32", "samples": "i32", "root": "fp32"}
    for capability, half in ((75, "fp16"), (80, "bf16"), (90, "fp32")):
        for has_bias, has_scale in ((False, False), (True, True)):
            constants = {"C": 48, "ROWS": 32, "COLUMNS": 64, "PARTS": 8, "SAMPLES": 16, "SILU": True,
                         "HAS_BIAS": has_bias, "HAS_SCALE": has_scale}
            constants |= {} if has_bias else {"bias_ptr": None, "grad_bias_ptr": None}
            constants |= {} if has_scale else {"scale_shift_ptr": None, "grad_scale_shift_ptr": None}
            for kernel in (kernels._forward, kernels._backward, kernels._parameter_gradients):
                names = kernel.arg_names
                source = triton.compiler.ASTSource(
                    kernel, {name: "constexpr" if name in constants else pointers.get(name, f"*{half}")
                             for name in names},
                    {(names.index(name),): value for name, value in constants.items() if name in names})
                target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
                assert triton.compile(source, target=target).asm["cubin"]


def test_rms_norm_of_a_pixel_of_zeros_is_zero():
    assert rms_norm(torch.zeros(1, 4, 2, 2), torch.ones(1, 4, 1, 1)).eq(0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rms_norm_keeps_half_precision_and_survives_its_range(dtype):
    x = torch.full((1, 48, 2, 2), 3000.0, dtype=dtype)      # squares are beyond float16
    y = rms_norm(x, torch.ones(1, 48, 1, 1))
    assert y.dtype == dtype
    torch.testing.assert_close(y, torch.ones_like(x), rtol=4e-3, atol=0)


def test_linear_attention_is_softmax_by_softmax_as_published():
    torch.manual_seed(0)
    attention, x = LinearAttention(12).double(), drawn(2, 12, 4, 4)
    q, k, v = attention.to_qkv(x).flatten(2).unflatten(1, (3, 4, 32)).unbind(1)       # each (b, heads, 32, positions)
    context = torch.einsum("bhdn,bhen->bhde", k.softmax(dim=-1), v)
    out = torch.einsum("bhde,bhdn->bhen", context, q.softmax(dim=-2) * 32 ** -0.5)
    expected = attention.to_out(out.reshape(2, 128, 4, 4))
    torch.testing.assert_close(attention(x), expected)
    inputs = (x, *attention.parameters())
    for ours, theirs in zip(gradients(attention(x), *inputs), gradients(expected, *inputs)):
        torch.testing.assert_close(ours, theirs)


def test_upsampled_conv_is_nearest_neighbours_then_a_convolution():
    torch.manual_seed(0)
    layer, x = UpsampledConv(3, 5).double(), drawn(2, 3, 4, 6)
    expected = F.conv2d(x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3), layer[1].weight, layer[1].bias,
                        padding=1)
    torch.testing.assert_close(layer(x), expected)
    inputs = (x, *layer.parameters())
    for ours, theirs in zip(gradients(layer(x), *inputs), gradients(expected, *inputs)):
        torch.testing.assert_close(ours, theirs)
