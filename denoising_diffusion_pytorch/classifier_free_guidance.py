"""Gaussian diffusion with classifier-free guidance: schedule, loss, guided denoiser, sampling."""
import math
from typing import Any, Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoising_diffusion_pytorch.guidance import combine
from denoising_diffusion_pytorch.samplers import SAMPLERS, get_sampler
from denoising_diffusion_pytorch.unet import Unet

__all__ = ["Unet", "GaussianDiffusion", "OBJECTIVES", "BETA_SCHEDULES", "OnStep", "draw_noise"]

OBJECTIVES = ("pred_noise", "pred_x0", "pred_v")
MIN_ALPHA_BAR = 1e-4        # a little above the end of the linear schedule, 4e-5
OnStep = Callable[[int, Tensor], None]      # of a timestep, and of what the samples are estimated to be there


def linear_beta_schedule(timesteps: int) -> Tensor:
    """Ho et al. 2020: betas from 1e-4 to 0.02 at 1000 steps, scaled to keep the same end for other numbers."""
    scale = 1000 / timesteps
    return torch.linspace(scale * 1e-4, scale * 0.02, timesteps, dtype=torch.float64).clamp(max=0.999)


def cosine_beta_schedule(timesteps: int, s: float = 0.008) -> Tensor:
    """Nichol & Dhariwal 2021, eq. 17."""
    x = torch.linspace(0, timesteps, timesteps + 1, dtype=torch.float64)
    alphas_cumprod = torch.cos((x / timesteps + s) / (1 + s) * math.pi / 2) ** 2
    return (1 - alphas_cumprod[1:] / alphas_cumprod[:-1]).clamp(0, 0.999)


BETA_SCHEDULES: dict[str, Callable[[int], Tensor]] = {"linear": linear_beta_schedule, "cosine": cosine_beta_schedule}


def min_snr_weight(alphas_cumprod: Tensor, objective: str, gamma: float | None) -> Tensor:
    """The weight of each timestep's loss, (timesteps,): min(SNR, gamma) in units of the x_start loss, turned into
    those of the objective (Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting"); no cap when None.
    """
    snr = alphas_cumprod / (1 - alphas_cumprod)
    capped = snr if gamma is None else snr.clamp(max=gamma)
    return {"pred_noise": capped / snr, "pred_x0": capped, "pred_v": capped / (snr + 1)}[objective]


def draw_noise(shape: Sequence[int], generators: torch.Generator | Sequence[torch.Generator] | None) -> Tensor:
    """Standard normal (b, ...) float32 on the generators' device; CPU ones draw the same whatever computes with it.

    generators: one for the whole batch, or one per image, so that an image does not depend on its batch.
    """
    if isinstance(generators, Sequence):
        return torch.stack([draw_noise(shape[1:], generator) for generator in generators])
    device = generators.device if generators is not None else "cpu"
    return torch.randn(tuple(shape), generator=generators, device=device)


class GaussianDiffusion(nn.Module):
    """The forward process, its loss, and guided sampling around a Unet.

    image_size: height = width of the data, (b, channels, image_size, image_size); objective: what the network
    predicts, one of OBJECTIVES; auto_normalize: data is in [0, 1] and is mapped to [-1, 1] and back; clip_x_start:
    clamp x_start to [-1, 1] while sampling, right only for data within that range; min_loss_weight: what every
    timestep's weight is raised to, as min-SNR leaves next to none to the noisiest; sampling_timesteps: network
    evaluations of ddim and dpmpp_2m (ddpm always visits all timesteps).
    """
    alphas_cumprod: Tensor
    loss_weight: Tensor
    sqrt_alphas_cumprod: Tensor
    sqrt_one_minus_alphas_cumprod: Tensor

    def __init__(self, model: Unet, *, image_size: int, timesteps: int = 1000, objective: str = "pred_v",
                 beta_schedule: str = "cosine", min_snr_loss_weight: bool = True, min_snr_gamma: float = 5,
                 min_loss_weight: float = 0.0, offset_noise_strength: float = 0.0, auto_normalize: bool = False,
                 clip_x_start: bool = False,
                 sampler: str = "dpmpp_2m", sampling_timesteps: int = 20, ddim_sampling_eta: float = 0.0,
                 use_cfg_plus_plus: bool = False):
        super().__init__()
        for what, name, known in (("objective", objective, OBJECTIVES), ("sampler", sampler, SAMPLERS),
                                  ("beta_schedule", beta_schedule, BETA_SCHEDULES)):
            if name not in known:
                raise ValueError(f"{what} '{name}' is unknown; expected one of {', '.join(known)}")
        if image_size % model.downsample_factor:
            raise ValueError(f"image_size {image_size} is not divisible by {model.downsample_factor}, "
                             "by which the network downsamples")
        if not 1 <= sampling_timesteps <= timesteps:
            raise ValueError(f"sampling_timesteps {sampling_timesteps} is not in 1 … timesteps = {timesteps}")
        self.model, self.image_size, self.channels = model, image_size, model.channels
        self.num_timesteps, self.sampling_timesteps = timesteps, sampling_timesteps
        self.objective, self.auto_normalize, self.clip_x_start = objective, auto_normalize, clip_x_start
        self.sampler, self.use_cfg_plus_plus = sampler, use_cfg_plus_plus
        self.ddim_sampling_eta, self.offset_noise_strength = ddim_sampling_eta, offset_noise_strength

        alphas_cumprod = torch.cumprod(1 - BETA_SCHEDULES[beta_schedule](timesteps), dim=0)
        self.alpha_bars = alphas_cumprod.tolist()
        loss_weight = min_snr_weight(alphas_cumprod, objective, min_snr_gamma if min_snr_loss_weight else None)
        loss_weight = loss_weight.clamp(min=min_loss_weight)
        # Functions of the arguments above, so no part of the state dict.
        for name, value in (("alphas_cumprod", alphas_cumprod), ("loss_weight", loss_weight),
                            ("sqrt_alphas_cumprod", alphas_cumprod.sqrt()),
                            ("sqrt_one_minus_alphas_cumprod", (1 - alphas_cumprod).sqrt())):
            self.register_buffer(name, value.float(), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.loss_weight.device

    # ------------------------------------------------------------------------------------------------ training

    def q_sample(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_start and noise mixed at timesteps t (b,) (Ho et al. 2020, eq. 4)."""
        alpha, sigma = self._alpha_sigma(t)
        return alpha * x_start + sigma * noise

    def draw(self, shape: Sequence[int], generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """All that is random in the loss of a batch of data shaped (b, c, h, w), on the generator's device (without
        one, the CPU), as arguments of forward: t (b,) int64, noise (b, c, h, w), drop_mask (b,) bool. Drawn for a
        global batch, it can be sliced.
        """
        b, c = shape[:2]
        noise = draw_noise(shape, generator)
        if self.offset_noise_strength > 0:      # https://www.crosslabs.org/blog/diffusion-with-offset-noise
            noise = noise + self.offset_noise_strength * draw_noise((b, c, 1, 1), generator)
        return {"t": torch.randint(0, self.num_timesteps, (b,), generator=generator, device=noise.device),
                "noise": noise,
                "drop_mask": torch.rand(b, generator=generator, device=noise.device) < self.model.cond_drop_prob}

    def p_losses(self, x_start: Tensor, t: Tensor, *, classes: Tensor, noise: Tensor, drop_mask: Tensor) -> Tensor:
        """The weighted squared error of each sample, (b,), x_start being normalized already."""
        output = self.model(self.q_sample(x_start, t, noise), t, classes, drop_mask=drop_mask)
        alpha, sigma = self._alpha_sigma(t)
        target = {"pred_noise": noise, "pred_x0": x_start, "pred_v": alpha * noise - sigma * x_start}[self.objective]
        return F.mse_loss(output.float(), target, reduction="none").flatten(1).mean(dim=1) * self.loss_weight[t]

    def forward(self, img: Tensor, *, classes: Tensor, t: Tensor | None = None, noise: Tensor | None = None,
                drop_mask: Tensor | None = None) -> Tensor:
        """The mean loss of data img (b, channels, image_size, image_size); pass the result of `draw`, or nothing."""
        if img.shape[1:] != (self.channels, self.image_size, self.image_size):
            raise ValueError(f"data of shape {tuple(img.shape)}; expected "
                             f"(b, {self.channels}, {self.image_size}, {self.image_size})")
        if t is None:
            draws = {key: value.to(img.device) for key, value in self.draw(img.shape).items()}
            return self(img, classes=classes, **draws)
        assert noise is not None and drop_mask is not None
        return self.p_losses(self._normalize(img), t, classes=classes, noise=noise, drop_mask=drop_mask).mean()

    # ------------------------------------------------------------------------------------------------ sampling

    def model_predictions(self, x: Tensor, t: Tensor, classes: Tensor, *, is_guided: bool = True,
                          cond_scale: float = 1.0, rescaled_phi: float = 0.0,
                          remove_parallel_component: bool = True) -> tuple[Tensor, Tensor]:
        """The (x_start, noise) of x at timesteps t (b,), guided or those of the class alone.

        With CFG++ (Chung et al. 2024, eq. 8; cond_scale is then its lambda, sensibly in (0, 1]) the noise is that of
        the null output, which keeps the trajectory on the data manifold.
        """
        if self.use_cfg_plus_plus and is_guided:
            cond, null = self.model.forward_both(x, t, classes)
            output = combine(cond, null, cond_scale, rescaled_phi, remove_parallel_component)
        else:
            output = null = self.model.forward_with_cond_scale(
                x, t, classes, cond_scale=cond_scale if is_guided else 1.0, rescaled_phi=rescaled_phi,
                remove_parallel_component=remove_parallel_component)
        x_start = self._to_x_start(x, t, output)
        return x_start, self._to_noise(x, t, x_start if null is output else self._to_x_start(x, t, null))

    @torch.inference_mode()
    def sample(self, classes: Tensor, *, noise: Tensor | None = None,
               generators: torch.Generator | Sequence[torch.Generator] | None = None, on_step: OnStep | None = None,
               **guidance: Any) -> Tensor:
        """Samples of classes (b,) int64: (b, channels, image_size, image_size), in the range of the data.

        noise: the starting noise; generators: where it, and the noise that ddpm and ddim with eta > 0 add, are drawn
        from (see draw_noise); on_step(t, x_start): is told at every timestep what the samples are estimated to be, in
        the end the result itself; guidance: guidance_interval (shares of the timesteps between which there is
        guidance, default 0 to 1; Kynkaanniemi et al. 2024), cond_scale, rescaled_phi and remove_parallel_component
        of model_predictions.
        """
        shape = (classes.shape[0], self.channels, self.image_size, self.image_size)
        if noise is None:
            noise = draw_noise(shape, generators)
        return self._sample_from(noise.to(self.device), self.sampling_times(), classes, generators, on_step,
                                 guidance)

    @torch.inference_mode()
    def interpolate(self, x1: Tensor, x2: Tensor, classes: Tensor, *, t: int | None = None, lam: float = 0.5,
                    generators: torch.Generator | Sequence[torch.Generator] | None = None, **guidance: Any) -> Tensor:
        """Between data x1 and x2, both (b, c, h, w): a variation of (1 - lam) x1 + lam x2, by default from the middle
        timestep. One noise serves both, so that the mixture has the variance that belongs to t.
        """
        return self.vary((1 - lam) * x1 + lam * x2, classes, t=self.num_timesteps // 2 if t is None else t,
                         generators=generators, **guidance)

    @torch.inference_mode()
    def vary(self, x_start: Tensor, classes: Tensor, *, t: int,
             generators: torch.Generator | Sequence[torch.Generator] | None = None, on_step: OnStep | None = None,
             **guidance: Any) -> Tensor:
        """Variations of data (b, c, h, w): noised to timestep t, and denoised as `classes` (SDEdit, Meng et al. 2022).

        The rest as in `sample`.
        """
        times = self.sampling_times(t)
        noise = draw_noise(x_start.shape, generators).to(x_start.device)
        x = self.q_sample(self._normalize(x_start), torch.full_like(classes, times[0]), noise)
        return self._sample_from(x, times, classes, generators, on_step, guidance)

    def sampling_times(self, start: int | None = None) -> list[int]:
        """The falling timesteps at which the network is evaluated, from `start` on: its share of sampling_timesteps.

        With pred_noise they start where alpha_bar reaches MIN_ALPHA_BAR: an error of the noise is divided by
        sqrt(alpha_bar) on its way to x_start, and at the end of the cosine schedule that is a factor of 20 000.
        """
        floor = MIN_ALPHA_BAR if self.objective == "pred_noise" else 0.0
        highest = max(t for t, alpha_bar in enumerate(self.alpha_bars) if alpha_bar >= floor or t == 0)
        first = highest if start is None else min(start, highest)
        share = max(1, round(self.sampling_timesteps * (first + 1) / (highest + 1)))
        steps = first + 1 if self.sampler == "ddpm" else min(first + 1, share)
        times = torch.linspace(-1, first, steps + 1, dtype=torch.float64)
        return times[1:].int().tolist()[::-1]

    def _sample_from(self, x: Tensor, times: list[int], classes: Tensor,
                     generators: torch.Generator | Sequence[torch.Generator] | None, on_step: OnStep | None,
                     guidance: dict) -> Tensor:
        low, high = guidance.get("guidance_interval", (0, 1))
        inside = {name: value for name, value in guidance.items() if name != "guidance_interval"}

        def denoise(x: Tensor, step: int) -> tuple[Tensor, Tensor]:
            is_guided = low <= (times[step] + 1) / self.num_timesteps <= high
            x_start, noise = self.model_predictions(x, torch.full_like(classes, times[step]), classes,
                                                    is_guided=is_guided, **inside)
            if on_step is not None:
                on_step(times[step], self._unnormalize(x_start))
            return x_start, noise

        sampler = get_sampler(self.sampler, self.ddim_sampling_eta)
        x = sampler(denoise, x, [self.alpha_bars[t] for t in times] + [1.0],
                    lambda: draw_noise(x.shape, generators).to(x.device))
        return self._unnormalize(x)

    # ------------------------------------------------------------------------------------------------ conversions

    def _alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.sqrt_alphas_cumprod[t].view(-1, 1, 1, 1), self.sqrt_one_minus_alphas_cumprod[t].view(-1, 1, 1, 1)

    def _normalize(self, img: Tensor) -> Tensor:
        return img * 2 - 1 if self.auto_normalize else img

    def _unnormalize(self, x: Tensor) -> Tensor:
        return (x + 1) / 2 if self.auto_normalize else x

    def _to_x_start(self, x: Tensor, t: Tensor, output: Tensor) -> Tensor:
        """The network's output as x_start; pred_v is v = alpha * noise - sigma * x_start (Salimans & Ho 2022)."""
        alpha, sigma = self._alpha_sigma(t)
        x_start = {"pred_x0": lambda: output, "pred_noise": lambda: (x - sigma * output) / alpha,
                   "pred_v": lambda: alpha * x - sigma * output}[self.objective]()
        return x_start.clamp(-1, 1) if self.clip_x_start else x_start

    def _to_noise(self, x: Tensor, t: Tensor, x_start: Tensor) -> Tensor:
        alpha, sigma = self._alpha_sigma(t)
        return (x - alpha * x_start) / sigma
