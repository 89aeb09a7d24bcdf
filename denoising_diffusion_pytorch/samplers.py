"""Samplers: from noise to data, along a list of noise levels.

All have the same signature, and know nothing of networks, guidance or files:

    sampler(denoise, x, alpha_bars, draw_noise) -> x

denoise: denoise(x, step) -> (x_start, noise), the estimates of both at noise level alpha_bars[step], shaped like x.
x: (b, ...) float, at noise level alpha_bars[0], that is, x = sqrt(alpha_bar) * x_start + sqrt(1 - alpha_bar) * noise.
alpha_bars: ascending floats in (0, 1]; alpha_bar = 1 is clean data. The result is at level alpha_bars[-1].
draw_noise: draw_noise() -> new standard normal noise, shaped like x. Only for samplers that add noise.
"""
import math
from functools import partial
from itertools import pairwise
from typing import Callable, Sequence

from torch import Tensor

Denoiser = Callable[[Tensor, int], tuple[Tensor, Tensor]]
Sampler = Callable[[Denoiser, Tensor, Sequence[float], Callable[[], Tensor]], Tensor]


def ddpm(denoise: Denoiser, x: Tensor, alpha_bars: Sequence[float], draw_noise: Callable[[], Tensor]) -> Tensor:
    """Ancestral sampling from the posterior q(x_next | x, x_start) (Ho et al. 2020, eq. 6 and 7)."""
    for step, (alpha_bar, alpha_bar_next) in enumerate(pairwise(alpha_bars)):
        x_start, noise = denoise(x, step)
        x = math.sqrt(alpha_bar) * x_start + math.sqrt(1 - alpha_bar) * noise      # equals x, except with CFG++
        alpha = alpha_bar / alpha_bar_next
        beta, beta_bar, beta_bar_next = 1 - alpha, 1 - alpha_bar, 1 - alpha_bar_next
        x = (math.sqrt(alpha_bar_next) * beta * x_start + math.sqrt(alpha) * beta_bar_next * x) / beta_bar
        if alpha_bar_next < 1:
            x = x + math.sqrt(beta * beta_bar_next / beta_bar) * draw_noise()
    return x


def ddim(denoise: Denoiser, x: Tensor, alpha_bars: Sequence[float], draw_noise: Callable[[], Tensor],
         eta: float = 0.0) -> Tensor:
    """DDIM (Song et al. 2021, eq. 12 and 16): eta = 0 is deterministic, eta = 1 adds as much noise as DDPM."""
    for step, (alpha_bar, alpha_bar_next) in enumerate(pairwise(alpha_bars)):
        x_start, noise = denoise(x, step)
        sigma = eta * math.sqrt((1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_next))
        x = math.sqrt(alpha_bar_next) * x_start + math.sqrt(1 - alpha_bar_next - sigma ** 2) * noise
        if sigma > 0:
            x = x + sigma * draw_noise()
    return x


def dpmpp_2m(denoise: Denoiser, x: Tensor, alpha_bars: Sequence[float], draw_noise: Callable[[], Tensor]) -> Tensor:
    """DPM-Solver++(2M), deterministic, second order (Lu et al. 2022, algorithm 2).

    The paper's update of x is (sigma_next / sigma) x + alpha_next (1 - e^-h) D. h is the step in lambda, which is half
    the log signal-to-noise ratio. D is x_start, extrapolated to the middle of the step. The first step has nothing to
    extrapolate from. The last step, to clean data, returns x_start itself.

    Here the update is written in terms of x_start and noise. If these come from different guidance (CFG++), the sampler
    treats them as DDIM does.
    """
    previous: tuple[Tensor, float] | None = None
    for step, (alpha_bar, alpha_bar_next) in enumerate(pairwise(alpha_bars)):
        x_start, noise = denoise(x, step)
        if alpha_bar_next == 1:
            return x_start
        h = _half_log_snr(alpha_bar_next) - _half_log_snr(alpha_bar)
        extrapolated = x_start
        if previous is not None:
            x_start_previous, h_previous = previous
            extrapolated = x_start + (x_start - x_start_previous) * (h / (2 * h_previous))
        decay = math.exp(-h)
        x = (math.sqrt(alpha_bar_next) * (decay * x_start + (1 - decay) * extrapolated)
             + math.sqrt(1 - alpha_bar_next) * noise)
        previous = x_start, h
    return x


def _half_log_snr(alpha_bar: float) -> float:
    """lambda, half the log signal-to-noise ratio."""
    return 0.5 * math.log(alpha_bar / (1 - alpha_bar))


SAMPLERS: dict[str, Sampler] = {"ddpm": ddpm, "ddim": ddim, "dpmpp_2m": dpmpp_2m}


def get_sampler(name: str, ddim_sampling_eta: float) -> Sampler:
    """The sampler of this name in SAMPLERS. ddim_sampling_eta: eta of ddim; the others ignore it."""
    return partial(ddim, eta=ddim_sampling_eta) if name == "ddim" else SAMPLERS[name]
