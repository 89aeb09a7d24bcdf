"""Every sampler against a Gaussian target, whose exact denoiser and exact probability flow are formulas."""
import math

import pytest
import torch

from denoising_diffusion_pytorch.samplers import SAMPLERS, ddim, ddpm, dpmpp_2m

# The target: correlated in two dimensions. x = sqrt(a) x0 + sqrt(1 - a) noise with x0 ~ N(MEAN, COVARIANCE).
MEAN = torch.tensor([1.5, -0.5], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 0.5]], dtype=torch.float64)
NUM_SAMPLES = 20_000


def exact_denoiser(alpha_bars):
    """E[x0 | x] of the Gaussian target, and the noise that belongs to it."""
    def denoise(x, step):
        a = alpha_bars[step]
        gain = math.sqrt(a) * COVARIANCE @ torch.linalg.inv(a * COVARIANCE + (1 - a) * torch.eye(2, dtype=x.dtype))
        x_start = MEAN + (x - math.sqrt(a) * MEAN) @ gain.T
        return x_start, (x - math.sqrt(a) * x_start) / math.sqrt(1 - a)
    return denoise


def exact_flow(x, start, end):
    """The probability flow from level `start` to `end`: along each eigenvector, deviations scale with the standard
    deviation sqrt(a s^2 + 1 - a) of the marginal.
    """
    variances, vectors = torch.linalg.eigh(COVARIANCE)
    scale = ((end * variances + 1 - end) / (start * variances + 1 - start)).sqrt()
    return math.sqrt(end) * MEAN + (x - math.sqrt(start) * MEAN) @ vectors * scale @ vectors.T


def levels(steps, low=0.002, high=0.998):
    """Noise levels evenly spaced in half log-SNR."""
    lam = torch.linspace(math.log(low / (1 - low)), math.log(high / (1 - high)), steps + 1, dtype=torch.float64)
    return torch.sigmoid(lam).tolist()


def noise_source(shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name, steps, eta", [("ddpm", 400, None), ("ddim", 100, 0.0), ("ddim", 400, 1.0),
                                              ("dpmpp_2m", 60, None)])
def test_samples_have_the_targets_mean_and_covariance(name, steps, eta):
    alpha_bars = levels(steps, low=1e-5) + [1.0]
    shape = (NUM_SAMPLES, 2)
    x = noise_source(shape, seed=0)()
    extra = {} if eta is None else {"eta": eta}
    samples = SAMPLERS[name](exact_denoiser(alpha_bars), x, alpha_bars, noise_source(shape), **extra)
    assert torch.allclose(samples.mean(dim=0), MEAN, atol=0.03)
    assert torch.allclose(torch.cov(samples.T), COVARIANCE, atol=0.03)


@pytest.mark.parametrize("sampler, order", [(ddim, 1), (dpmpp_2m, 2)])
def test_order_of_convergence_as_steps_double(sampler, order):
    x = noise_source((64, 2), seed=0)()
    errors = []
    for steps in (40, 80, 160):
        alpha_bars = levels(steps)
        result = sampler(exact_denoiser(alpha_bars), x, alpha_bars, None)
        errors.append((result - exact_flow(x, alpha_bars[0], alpha_bars[-1])).norm().item())
    orders = [math.log2(a / b) for a, b in zip(errors, errors[1:])]
    assert all(abs(found - order) < 0.25 for found in orders), (errors, orders)


def test_dpmpp_2m_beats_ddim_at_twenty_steps():
    x, alpha_bars = noise_source((64, 2), seed=0)(), levels(20)
    exact = exact_flow(x, alpha_bars[0], alpha_bars[-1])
    error = {sampler: (sampler(exact_denoiser(alpha_bars), x, alpha_bars, None) - exact).norm()
             for sampler in (ddim, dpmpp_2m)}
    assert error[dpmpp_2m] < error[ddim] / 3


def test_ddim_with_eta_one_is_ddpm():
    alpha_bars, shape = levels(10) + [1.0], (8, 2)
    x = noise_source(shape, seed=0)()
    a = ddim(exact_denoiser(alpha_bars), x, alpha_bars, noise_source(shape), eta=1.0)
    b = ddpm(exact_denoiser(alpha_bars), x, alpha_bars, noise_source(shape))
    assert torch.allclose(a, b)


@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m"])
def test_deterministic_samplers_draw_no_noise(name):
    alpha_bars = levels(5) + [1.0]

    def refuse():
        raise AssertionError("noise was drawn")
    SAMPLERS[name](exact_denoiser(alpha_bars), torch.zeros(1, 2, dtype=torch.float64), alpha_bars, refuse)
