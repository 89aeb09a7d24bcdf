"""GaussianDiffusion: schedule, loss and sampling against existing checkpoints' figures and closed forms."""
import copy
import math
import pickle

import numpy as np
import pytest
import torch
from parity import FIXTURES, state_dict

from denoising_diffusion_pytorch import GaussianDiffusion, Unet
from denoising_diffusion_pytorch.classifier_free_guidance import OBJECTIVES, min_snr_weight


@pytest.fixture(scope="module")
def arrays():
    return {key: torch.from_numpy(value) for key, value in np.load(FIXTURES / "unet.npz").items()}


@pytest.fixture(scope="module")
def diffusion():
    unet = Unet(48, 31, dim_mults=(1, 2, 4), channels=4, attn_dim_head=32, attn_heads=4)
    unet.load_state_dict(state_dict("unet.shapes.json"))
    return GaussianDiffusion(unet, image_size=32, sampler="ddim", sampling_timesteps=50,
                             clip_x_start=True).eval().requires_grad_(False)


def relative(ours, theirs):
    return ((ours - theirs).norm() / theirs.norm()).item()


def small(**changes):
    torch.manual_seed(0)
    settings = {"image_size": 8, "sampling_timesteps": 5} | changes
    return GaussianDiffusion(Unet(8, 3, dim_mults=(1, 2), channels=2, attn_dim_head=8, attn_heads=2),
                             **settings).eval().requires_grad_(False)


def test_schedule_and_loss_weight_match(diffusion, arrays):
    assert relative(diffusion.alphas_cumprod, arrays["alphas_cumprod"]) < 1e-5
    assert relative(diffusion.loss_weight, arrays["loss_weight"]) < 1e-5


def test_q_sample_and_losses_match(diffusion, arrays):
    x0, t, noise = arrays["x0"], arrays["t"], arrays["noise"]
    assert relative(diffusion.q_sample(x0, t, noise), arrays["q_sample"]) < 1e-5
    losses = diffusion.p_losses(x0, t, classes=arrays["classes"], noise=noise,
                                drop_mask=torch.zeros(3, dtype=torch.bool))
    assert relative(losses, arrays["p_losses"]) < 1e-4


def test_ddim_of_fifty_steps_matches(diffusion, arrays):
    samples = diffusion.sample(torch.tensor([4, 29]), noise=arrays["ddim_start"], cond_scale=3.0, rescaled_phi=0.7)
    assert relative(samples, arrays["ddim_50_eta0_scale3_phi07"]) < 1e-4


def test_cosine_schedule_is_the_papers_formula():
    bars = torch.tensor(small(timesteps=1000).alpha_bars, dtype=torch.float64)
    def f(t):
        return math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2
    for t in (0, 1, 499, 900):
        assert bars[t].item() == pytest.approx(f(t + 1) / f(0), rel=1e-6)


def test_linear_schedule_ends_as_published():
    bars = small(beta_schedule="linear").alpha_bars
    assert bars[0] == pytest.approx(1 - 1e-4) and bars[-1] == pytest.approx(4.036e-5, rel=1e-3)     # Ho et al. 2020


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_min_snr_weights_the_x_start_error_by_at_most_gamma(objective):
    """In units of the x_start error: |v error|^2 = |x0 error|^2 (snr + 1), |noise error|^2 = |x0 error|^2 snr."""
    bars = torch.tensor([0.001, 0.3, 0.9, 0.999], dtype=torch.float64)
    snr = bars / (1 - bars)
    per_x_start = {"pred_x0": torch.ones(4), "pred_noise": snr, "pred_v": snr + 1}[objective]
    assert torch.allclose(min_snr_weight(bars, objective, 5) * per_x_start, snr.clamp(max=5))
    assert torch.allclose(min_snr_weight(bars, objective, None) * per_x_start, snr)


def test_the_least_weight_raises_the_noisiest_timesteps_only():
    unet = Unet(8, 2, dim_mults=(1,), channels=2)
    plain, raised, even = (GaussianDiffusion(unet, image_size=8, min_loss_weight=floor).loss_weight
                           for floor in (0.0, 0.4, 1.0))
    assert plain[-1] < 1e-3 and torch.equal(raised, plain.clamp(min=0.4))
    assert torch.equal(even, torch.ones(1000))      # with pred_v min-SNR never exceeds 1: the plain squared error


class Oracle(torch.nn.Module):
    """Stands in for the Unet: knows x_start, and answers what a perfect network would."""

    def __init__(self, x_start, objective):
        super().__init__()
        self.x_start, self.objective = x_start, objective
        self.channels, self.downsample_factor, self.cond_drop_prob = x_start.shape[1], 1, 0.5

    def forward(self, x, t, classes, *, drop_mask):
        bar = self.bars[t].view(-1, 1, 1, 1)
        noise = (x - bar.sqrt() * self.x_start) / (1 - bar).sqrt()
        return {"pred_x0": self.x_start, "pred_noise": noise,
                "pred_v": bar.sqrt() * noise - (1 - bar).sqrt() * self.x_start}[self.objective]

    def forward_with_cond_scale(self, x, t, classes, **guidance):
        return self(x, t, classes, drop_mask=None)


def oracle_diffusion(objective, **settings):
    x_start = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(5))
    oracle = Oracle(x_start, objective)
    diffusion = GaussianDiffusion(oracle, image_size=8, objective=objective, **settings)
    oracle.bars = torch.tensor(diffusion.alpha_bars)
    return diffusion, x_start


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
def test_a_perfect_network_has_no_loss_and_recovers_the_data(objective, sampler, schedule):
    diffusion, x_start = oracle_diffusion(objective, sampler=sampler, beta_schedule=schedule, sampling_timesteps=10)
    classes = torch.zeros(3, dtype=torch.int64)
    draws = diffusion.random_loss_inputs(x_start.shape, torch.Generator().manual_seed(0))
    assert diffusion(x_start, classes=classes, **draws).item() < 1e-8
    samples = diffusion.sample(classes, generators=torch.Generator().manual_seed(0))
    assert torch.allclose(samples, x_start, atol=2e-3)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp_2m"])
def test_a_network_that_errs_by_three_per_cent_draws_samples_of_the_right_spread(objective, schedule, sampler):
    """Standard normal data, whose best prediction is known: E[noise | x] = sigma x, E[x_start | x] = alpha x, v = 0."""
    diffusion = small(objective=objective, beta_schedule=schedule, sampler=sampler, sampling_timesteps=20)

    def nearly_right(x, t, classes, **guidance):
        alpha, sigma = diffusion._alpha_sigma(t)
        best = {"pred_noise": sigma * x, "pred_x0": alpha * x, "pred_v": torch.zeros_like(x)}[objective]
        return best + 0.03 * torch.sin(3 * x)
    diffusion.model.forward_with_cond_scale = nearly_right
    samples = diffusion.sample(torch.zeros(50, dtype=torch.int64), generators=torch.Generator().manual_seed(0))
    assert samples.std().item() == pytest.approx(1, abs=0.12)


@pytest.mark.parametrize("clip", [True, False])
def test_x_start_is_clamped_only_on_demand(clip):
    diffusion, x_start = oracle_diffusion("pred_v", clip_x_start=clip)
    samples = diffusion.sample(torch.zeros(3, dtype=torch.int64))
    assert (samples.abs().max() <= 1.0 + 1e-5) == clip
    assert x_start.abs().max() > 1      # the oracle's data lies outside


def test_auto_normalize_maps_to_and_from_the_unit_range():
    diffusion = small(auto_normalize=True)
    seen = []
    diffusion.p_losses = lambda x_start, t, **draws: seen.append(x_start) or torch.zeros(1)
    diffusion(torch.tensor([0.0, 1.0]).view(1, 2, 1, 1).expand(1, 2, 8, 8), classes=torch.tensor([0]))
    assert seen[0][0, :, 0, 0].tolist() == [-1, 1]
    raw = small(auto_normalize=False)
    classes, noise = torch.tensor([1]), torch.randn(1, 2, 8, 8)
    assert torch.allclose(diffusion.sample(classes, noise=noise), (raw.sample(classes, noise=noise) + 1) / 2, atol=1e-5)


def test_an_image_does_not_depend_on_its_batch():
    for sampler in ("ddpm", "ddim", "dpmpp_2m"):
        diffusion = small(sampler=sampler, timesteps=20, ddim_sampling_eta=0.5)

        def images(seeds):
            return diffusion.sample(torch.tensor([seed % 3 for seed in seeds]), cond_scale=2.0,
                                    generators=[torch.Generator().manual_seed(seed) for seed in seeds])
        assert torch.allclose(images([1, 2, 3])[2], images([3])[0], atol=1e-4)


def test_cfg_plus_plus_renoises_with_the_null_output():
    diffusion = small(use_cfg_plus_plus=True)
    x, t, classes = torch.randn(2, 2, 8, 8), torch.tensor([300, 300]), torch.tensor([0, 2])
    _, noise = diffusion.model_predictions(x, t, classes, cond_scale=0.6)
    null = diffusion.model(x, t, classes, drop_mask=torch.ones(2, dtype=torch.bool))
    bar = diffusion.alpha_bars[300]
    assert torch.allclose(noise, math.sqrt(bar) * null + math.sqrt(1 - bar) * x, atol=1e-5)     # v to noise


def test_interpolation_ends_at_either_image_and_keeps_the_variance_of_its_timestep():
    diffusion, x_start = oracle_diffusion("pred_v")
    other = torch.randn(3, 2, 8, 8)
    seen = []
    diffusion._sample_from = lambda x, times, *rest: seen.append((x, times)) or x
    for lam in (0.0, 0.5, 1.0):
        diffusion.interpolate(x_start, other, torch.zeros(3, dtype=torch.int64), t=399, lam=lam,
                              generators=torch.Generator().manual_seed(0))
    (first, times), (middle, _), (last, _) = seen
    noise = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    start = torch.full((3,), times[0])
    assert times[0] == 399
    assert torch.allclose(first, diffusion.q_sample(x_start, start, noise))
    assert torch.allclose(last, diffusion.q_sample(other, start, noise))
    assert torch.allclose(middle, (first + last) / 2, atol=1e-6)


@pytest.mark.parametrize("sampler, objective", [("dpmpp_2m", "pred_v"), ("ddim", "pred_noise"), ("ddpm", "pred_v")])
def test_a_variation_starts_at_its_timestep_and_takes_its_share_of_the_steps(sampler, objective):
    diffusion, x_start = oracle_diffusion(objective, sampler=sampler, sampling_timesteps=20)
    seen = []
    diffusion._sample_from = lambda x, times, *rest: seen.append((x, times)) or x
    for t, steps in ((739, 15), (499, 10), (30, 1), (0, 1)):
        diffusion.vary(x_start, torch.zeros(3, dtype=torch.int64), t=t, generators=torch.Generator().manual_seed(0))
        noised, times = seen[-1]
        assert times[0] == t and len(times) == (t + 1 if sampler == "ddpm" else steps)
        assert times == sorted(set(times), reverse=True) and times[-1] >= 0
        noise = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
        assert torch.allclose(noised, diffusion.q_sample(x_start, torch.full((3,), t), noise))
    assert diffusion.sampling_times(diffusion.sampling_times()[0]) == diffusion.sampling_times()


def test_training_draws_cover_timesteps_and_drop_the_asked_share():
    diffusion = small()
    draws = diffusion.random_loss_inputs((4000, 2, 2, 2), torch.Generator().manual_seed(0))
    assert draws["t"].min() < 5 and draws["t"].max() > 994
    assert draws["drop_mask"].float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert draws["noise"].var().item() == pytest.approx(1, abs=0.03)


def test_offset_noise_is_shared_by_the_pixels_of_a_channel():
    diffusion = small(offset_noise_strength=1.0)
    noise = diffusion.random_loss_inputs((500, 2, 8, 8), torch.Generator().manual_seed(0))["noise"]
    assert noise.mean(dim=(2, 3)).var().item() == pytest.approx(1 + 1 / 64, rel=0.15)


@pytest.mark.parametrize("settings", [{"objective": "pred_w"}, {"beta_schedule": "x"}, {"sampler": "euler"},
                                      {"image_size": 7}, {"sampling_timesteps": 1001}, {"sampling_timesteps": 0}])
def test_nonsense_is_refused(settings):
    with pytest.raises(ValueError):
        small(**settings)


def test_data_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="expected"):
        small()(torch.zeros(1, 2, 16, 16), classes=torch.tensor([0]))


def test_kept_graphs_are_not_copied_and_are_those_of_the_weights_that_sample():
    """A CUDA graph can neither be copied nor written, and goes on reading the memory that the weights once had."""
    model = small()
    model.predictors["a graph"] = (entry for entry in ())      # as little to be copied as a graph
    assert copy.deepcopy(model).predictors == {} and pickle.loads(pickle.dumps(model)).predictors == {}
    classes = torch.tensor([0])
    model.sample(classes)
    assert model.predictors == {}       # they were of no weights that are known
    for change in (lambda: model.double().float(), lambda: setattr(model, "clip_x_start", not model.clip_x_start)):
        model.predictors["a graph"] = None
        model.sample(classes)
        assert "a graph" in model.predictors
        change()
        model.sample(classes)
        assert model.predictors == {}


def test_outside_the_guidance_interval_there_is_neither_guidance_nor_its_cost():
    torch.manual_seed(0)
    unet = Unet(8, 3, dim_mults=(1, 2), channels=2, attn_dim_head=8, attn_heads=2).eval()
    diffusion = GaussianDiffusion(unet, image_size=8, sampling_timesteps=10)
    batches = []
    unet.init_conv.register_forward_hook(lambda module, inputs, output: batches.append(len(inputs[0])))
    def sample(**guidance):
        batches.clear()
        return diffusion.sample(torch.tensor([0, 2]), noise=torch.ones(2, 2, 8, 8), **guidance)
    everywhere = sample(cond_scale=3.0)
    assert batches == [4] * 10
    assert torch.equal(sample(cond_scale=3.0, guidance_interval=(0.0, 1.0)), everywhere)
    plain = sample(cond_scale=1.0)
    assert torch.equal(sample(cond_scale=3.0, guidance_interval=(0.0, 0.0)), plain) and batches == [2] * 10
    diffusion.use_cfg_plus_plus = True
    assert torch.equal(sample(cond_scale=0.6, guidance_interval=(0.0, 0.0)), plain) and batches == [2] * 10
    diffusion.use_cfg_plus_plus = False
    between = sample(cond_scale=3.0, guidance_interval=(0.2, 0.6))      # times are the ends of ten shares: 1, 0.9 …
    assert batches == [2] * 4 + [4] * 5 + [2]
    assert not torch.allclose(between, plain) and not torch.allclose(between, everywhere)
