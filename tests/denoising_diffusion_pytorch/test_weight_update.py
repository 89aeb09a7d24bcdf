"""Clipping, Adam, the average and the loss scale on flat buffers, against PyTorch's and ema_pytorch's on parameters."""
import copy

import torch
from ema_pytorch import EMA

from denoising_diffusion_pytorch import Unet
from denoising_diffusion_pytorch.flat import FlatLayout, convert_layers
from denoising_diffusion_pytorch.weight_update import GROWTH_INTERVAL, WeightUpdate


def make_network():
    torch.manual_seed(0)
    return Unet(8, 3, dim_mults=(1, 2), channels=2, attn_dim_head=8, attn_heads=2)


def make_update(network, half_precision=None, **changes):
    settings = {"lr": 1e-2, "betas": (0.9, 0.99), "max_grad_norm": 1.0, "ema_decay": 0.95, "ema_update_every": 3}
    return WeightUpdate(network, half_precision=half_precision, **settings | changes)


def draw_gradients(update, step, size=1.0):
    """Random gradients, in the flat buffer, as a dict of tensors shaped like the parameters."""
    generator = torch.Generator().manual_seed(step)
    views = update.layout.views(update.grads)
    for view in views.values():
        view.copy_(size * torch.randn(view.shape, generator=generator))
    return views


def test_it_is_clipping_adam_and_ema_pytorch_on_each_parameter():
    """Over 160 steps: the average is a copy up to step 100, and follows more and more slowly from there on."""
    ours = make_network()
    theirs = copy.deepcopy(ours)
    update = make_update(ours)
    adam = torch.optim.Adam(theirs.parameters(), lr=1e-2, betas=(0.9, 0.99))
    ema = EMA(theirs, beta=0.95, update_every=3, include_online_model=False)
    for step in range(160):
        grads = draw_gradients(update, step, size=10.0 if step % 2 else 1e-3)
        for name, parameter in theirs.named_parameters():
            parameter.grad = grads[name].clone()
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        adam.step()
        ema.update()
        torch.testing.assert_close(update(step), norm)
        if step in (0, 7, 99, 103, 159):
            for found, expected in ((ours, theirs), (update.ema_model, ema.ema_model)):
                torch.testing.assert_close(dict(found.named_parameters()), dict(expected.named_parameters()),
                                           rtol=1e-4, atol=1e-6)


def test_the_flat_buffer_holds_every_parameter_once_in_its_own_memory_order():
    network = make_network()
    layout, before = FlatLayout(network), copy.deepcopy(network.state_dict())
    buffer = torch.full((layout.size,), float("nan"))
    layout.move_into(buffer, network)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert network.init_conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert buffer.isfinite().sum() == sum(p.numel() for p in network.parameters())
    assert all(p.data_ptr() % 16 == 0 for p in network.parameters())
    ordered = layout.in_memory_order([dict(network.named_parameters())[name] for name in layout.names])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(layout.pieces(buffer), ordered))


def test_the_twin_computes_with_half_precision_weights_and_sees_every_change():
    network = make_network()
    update = make_update(network, torch.bfloat16)
    twin = dict(update.network.named_parameters())
    assert twin["init_conv.weight"].dtype == torch.bfloat16 and twin["classes_emb.weight"].dtype == torch.float32
    before = twin["init_conv.weight"].clone()
    draw_gradients(update, 0)
    update(0)
    assert not torch.equal(twin["init_conv.weight"], before)
    for name, parameter in network.named_parameters():
        assert torch.equal(twin[name], parameter.to(twin[name].dtype))


def test_converted_layers_give_what_autocast_gives():
    network = make_network().eval()
    inputs = torch.randn(2, 2, 8, 8), torch.tensor([3, 700]), torch.tensor([0, 2])
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected = network(*inputs).float()
        convert_layers(network, torch.bfloat16)
        found = network(*inputs).float()
    assert (found - expected).norm() < 0.02 * expected.norm()


def test_an_overflow_halves_the_loss_scale_and_quiet_steps_double_it():
    update = make_update(make_network(), torch.float16)
    first, weights = update.loss_scale.item(), update.weights.clone()
    grads = draw_gradients(update, 0)
    grads["init_conv.weight"][0, 0, 0, 0] = float("inf")
    update(1)
    assert update.loss_scale.item() == first / 2 and torch.equal(update.weights, weights)
    assert update.skipped_in_a_row == 1 and update.skipped == 0     # normal with float16, so not counted
    for step in range(GROWTH_INTERVAL):
        assert update.loss_scale.item() == first / 2
        draw_gradients(update, step)
        update(1)
    assert update.loss_scale.item() == first and update.skipped_in_a_row == 0
    saved = update.scaler_state()
    torch.amp.GradScaler("cpu").load_state_dict(saved)      # its form
    other = make_update(make_network(), torch.float16)
    other.load_scaler_state(saved)
    assert other.loss_scale == update.loss_scale and other.steps_since_growth == update.steps_since_growth


def test_the_norm_and_the_step_are_of_unscaled_gradients():
    plain, scaled = make_update(make_network()), make_update(make_network(), torch.float16)
    for update in (plain, scaled):
        draw_gradients(update, 0)
    scaled.grads.mul_(scaled.loss_scale)
    torch.testing.assert_close(plain(1), scaled(1))
    torch.testing.assert_close(plain.weights, scaled.weights)
