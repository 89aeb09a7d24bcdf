"""Gaussian diffusion with classifier-free guidance: noise schedule, loss, guided denoiser and sampling."""
import math
from typing import Any, Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoising_diffusion_pytorch.guidance import combine
from denoising_diffusion_pytorch.samplers import SAMPLERS, get_sampler
from denoising_diffusion_pytorch.unet import Unet
from groundwork.cuda_graph import Graphed, Inputs

__all__ = ["Unet", "GaussianDiffusion", "OBJECTIVES", "BETA_SCHEDULES", "OnStep", "draw_noise"]

OBJECTIVES = ("pred_noise", "pred_x0", "pred_v")
MIN_ALPHA_BAR = 1e-4        # slightly more than alpha_bar at the end of the linear schedule, 4e-5
OnStep = Callable[[int, Tensor], None]      # called with a timestep and the estimate of x_start there


def linear_beta_schedule(timesteps: int) -> Tensor:
    """Betas (timesteps,), float64: from 1e-4 to 0.02 at 1000 steps (Ho et al. 2020). For other numbers of steps they
    are scaled, so that the last alpha_bar stays about the same.
    """
    scale = 1000 / timesteps
    return torch.linspace(scale * 1e-4, scale * 0.02, timesteps, dtype=torch.float64).clamp(max=0.999)


def cosine_beta_schedule(timesteps: int, s: float = 0.008) -> Tensor:
    """Betas (timesteps,), float64: Nichol & Dhariwal 2021, eq. 17."""
    x = torch.linspace(0, timesteps, timesteps + 1, dtype=torch.float64)
    alphas_cumprod = torch.cos((x / timesteps + s) / (1 + s) * math.pi / 2) ** 2
    return (1 - alphas_cumprod[1:] / alphas_cumprod[:-1]).clamp(0, 0.999)


BETA_SCHEDULES: dict[str, Callable[[int], Tensor]] = {"linear": linear_beta_schedule, "cosine": cosine_beta_schedule}


def min_snr_weight(alphas_cumprod: Tensor, objective: str, gamma: float | None) -> Tensor:
    """Min-SNR loss weights of the timesteps, shaped like alphas_cumprod, (timesteps,).

    The weight is min(SNR, gamma) for a loss on x_start; it is converted here to the loss of `objective` (Hang et al.
    2023, "Efficient Diffusion Training via Min-SNR Weighting"). With gamma = None, the SNR is not capped.
    """
    snr = alphas_cumprod / (1 - alphas_cumprod)
    capped = snr if gamma is None else snr.clamp(max=gamma)
    return {"pred_noise": capped / snr, "pred_x0": capped, "pred_v": capped / (snr + 1)}[objective]


def draw_noise(shape: Sequence[int], generators: torch.Generator | Sequence[torch.Generator] | None) -> Tensor:
    """Standard normal noise of this shape, (b, ...) float32, on the generators' device; without one, on the CPU.

    A CPU generator gives the same noise whatever device computes with it.

    generators: one for the whole batch, or one per image. With one per image, an image does not depend on the others in
        its batch.
    """
    if isinstance(generators, Sequence):
        return torch.stack([draw_noise(shape[1:], generator) for generator in generators])
    device = generators.device if generators is not None else "cpu"
    return torch.randn(tuple(shape), generator=generators, device=device)


class GaussianDiffusion(nn.Module):
    """The forward process, its loss, and guided sampling with a Unet.

    image_size: height and width of the data, whose shape is (b, channels, image_size, image_size).
    objective: what the network predicts, one of OBJECTIVES.
    beta_schedule: one of BETA_SCHEDULES.
    min_snr_loss_weight: cap the SNR in the loss weights at min_snr_gamma (see min_snr_weight).
    min_loss_weight: lower bound of the loss weights; min-SNR gives almost no weight to the noisiest timesteps.
    offset_noise_strength: standard deviation of the extra noise that all pixels of a channel share; 0: none.
    auto_normalize: the data is in [0, 1]; it is mapped to [-1, 1] for the network, and samples are mapped back.
    clip_x_start: clamp x_start to [-1, 1] while sampling. Correct only for data in that range.
    sampler: one of SAMPLERS.
    sampling_timesteps: network evaluations of ddim and dpmpp_2m. (ddpm always uses all timesteps.)
    ddim_sampling_eta: 0: ddim is deterministic; 1: it adds as much noise as ddpm.
    use_cfg_plus_plus: sample with CFG++ (see model_predictions).

    Raises ValueError for unknown names, an image_size that the network cannot halve often enough, or too many
    sampling_timesteps.
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
        for argument, name, known_names in (("objective", objective, OBJECTIVES), ("sampler", sampler, SAMPLERS),
                                            ("beta_schedule", beta_schedule, BETA_SCHEDULES)):
            if name not in known_names:
                raise ValueError(f"{argument} '{name}' is unknown; expected one of {', '.join(known_names)}")
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
        # Sampling as CUDA graphs is faster, but they hold memory, and pay only for many samples. See _predictor.
        self.uses_graphs = False
        self.predictors: dict[tuple, Graphed] = {}
        self.predictors_of: tuple = ()      # the addresses of their weights, and what else was constant

        alphas_cumprod = torch.cumprod(1 - BETA_SCHEDULES[beta_schedule](timesteps), dim=0)
        self.alpha_bars = alphas_cumprod.tolist()
        loss_weight = min_snr_weight(alphas_cumprod, objective, min_snr_gamma if min_snr_loss_weight else None)
        loss_weight = loss_weight.clamp(min=min_loss_weight)
        # Not in the state dict, because the arguments above determine them.
        for name, value in (("alphas_cumprod", alphas_cumprod), ("loss_weight", loss_weight),
                            ("sqrt_alphas_cumprod", alphas_cumprod.sqrt()),
                            ("sqrt_one_minus_alphas_cumprod", (1 - alphas_cumprod).sqrt())):
            self.register_buffer(name, value.float(), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.loss_weight.device

    # ------------------------------------------------------------------------------------------------ training

    def q_sample(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_start (b, ...) with noise of the same shape, mixed for the timesteps t (b,) (Ho et al. 2020, eq. 4)."""
        alpha, sigma = self._alpha_sigma(t)
        return alpha * x_start + sigma * noise

    def random_loss_inputs(self, shape: Sequence[int], generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """All random inputs of the loss for a batch of shape (b, c, h, w), as keyword arguments of `forward`.

        Returns t (b,) int64, noise (b, c, h, w) float32 and drop_mask (b,) bool, on the generator's device; without
        one, on the CPU. Several processes can generate them for the global batch and take one slice each.
        """
        b, c = shape[:2]
        noise = draw_noise(shape, generator)
        if self.offset_noise_strength > 0:      # https://www.crosslabs.org/blog/diffusion-with-offset-noise
            noise = noise + self.offset_noise_strength * draw_noise((b, c, 1, 1), generator)
        return {"t": torch.randint(0, self.num_timesteps, (b,), generator=generator, device=noise.device),
                "noise": noise,
                "drop_mask": torch.rand(b, generator=generator, device=noise.device) < self.model.cond_drop_prob}

    def p_losses(self, x_start: Tensor, t: Tensor, *, classes: Tensor, noise: Tensor, drop_mask: Tensor) -> Tensor:
        """The weighted squared error of each sample, (b,) float32. x_start (b, c, h, w) must be normalized already.
        drop_mask (b,) bool: True where the null class replaces the class.
        """
        output = self.model(self.q_sample(x_start, t, noise), t, classes, drop_mask=drop_mask)
        alpha, sigma = self._alpha_sigma(t)
        target = {"pred_noise": noise, "pred_x0": x_start, "pred_v": alpha * noise - sigma * x_start}[self.objective]
        return F.mse_loss(output.float(), target, reduction="none").flatten(1).mean(dim=1) * self.loss_weight[t]

    def forward(self, img: Tensor, *, classes: Tensor, t: Tensor | None = None, noise: Tensor | None = None,
                drop_mask: Tensor | None = None) -> Tensor:
        """The mean loss of data img, (b, channels, image_size, image_size), with classes (b,) int64. Returns a scalar.

        t, noise, drop_mask: what random_loss_inputs returns; if left out, they are generated here. Raises ValueError if
        img has another shape.
        """
        if img.shape[1:] != (self.channels, self.image_size, self.image_size):
            raise ValueError(f"data of shape {tuple(img.shape)}; expected "
                             f"(b, {self.channels}, {self.image_size}, {self.image_size})")
        if t is None:
            draws = {key: value.to(img.device) for key, value in self.random_loss_inputs(img.shape).items()}
            return self(img, classes=classes, **draws)
        assert noise is not None and drop_mask is not None
        return self.p_losses(self._normalize(img), t, classes=classes, noise=noise, drop_mask=drop_mask).mean()

    # ------------------------------------------------------------------------------------------------ sampling

    def model_predictions(self, x: Tensor, t: Tensor, classes: Tensor, *, is_guided: bool = True,
                          cond_scale: float = 1.0, rescaled_phi: float = 0.0,
                          remove_parallel_component: bool = True) -> tuple[Tensor, Tensor]:
        """The estimates (x_start, noise), shaped like x (b, c, h, w), at timesteps t (b,).

        is_guided: False: only the conditional pass, without guidance.
        cond_scale, rescaled_phi, remove_parallel_component: see guidance.combine.

        With CFG++ (Chung et al. 2024, eq. 8), cond_scale is the paper's lambda, useful in (0, 1]. There x_start comes
        from the guided output, but the noise comes from the unconditional output. This keeps the trajectory on the data
        manifold.
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
        """Generate one sample for each of the classes (b,) int64: (b, channels, image_size, image_size), in the data's
        range.

        noise: the initial noise, of the result's shape; if left out, it is drawn from the generators.
        generators: also give the noise that ddpm, and ddim with eta > 0, add in each step (see draw_noise).
        on_step: called as on_step(t, x_start) after each network evaluation, with the current estimate of the samples.
            The last estimate is the result.
        guidance: guidance_interval (guide only between these two fractions of the timesteps, default 0 to 1;
            Kynkaanniemi et al. 2024), and cond_scale, rescaled_phi and remove_parallel_component of model_predictions.
        """
        shape = (classes.shape[0], self.channels, self.image_size, self.image_size)
        if noise is None:
            noise = draw_noise(shape, generators)
        return self._sample_from(noise.to(self.device), self.sampling_times(), classes, generators, on_step,
                                 guidance)

    @torch.inference_mode()
    def interpolate(self, x1: Tensor, x2: Tensor, classes: Tensor, *, t: int | None = None, lam: float = 0.5,
                    generators: torch.Generator | Sequence[torch.Generator] | None = None, **guidance: Any) -> Tensor:
        """Generate samples between data x1 and x2, (b, c, h, w) each: variations of (1 - lam) x1 + lam x2.

        t: the timestep up to which noise is added; default: the middle one. The noise is added once, to the mixture. If
        x1 and x2 got noise of their own, the mixture would have less variance than belongs to t. Other arguments: see
        `sample`.
        """
        return self.vary((1 - lam) * x1 + lam * x2, classes, t=self.num_timesteps // 2 if t is None else t,
                         generators=generators, **guidance)

    @torch.inference_mode()
    def vary(self, x_start: Tensor, classes: Tensor, *, t: int,
             generators: torch.Generator | Sequence[torch.Generator] | None = None, on_step: OnStep | None = None,
             **guidance: Any) -> Tensor:
        """Generate variations of data x_start, (b, c, h, w): add noise up to timestep t, then denoise with `classes`
        (b,) int64 (SDEdit, Meng et al. 2022). Other arguments: see `sample`.
        """
        times = self.sampling_times(t)
        noise = draw_noise(x_start.shape, generators).to(x_start.device)
        x = self.q_sample(self._normalize(x_start), torch.full_like(classes, times[0]), noise)
        return self._sample_from(x, times, classes, generators, on_step, guidance)

    def sampling_times(self, start: int | None = None) -> list[int]:
        """The timesteps at which the network is evaluated, in descending order from `start` (default: the highest) on.

        A lower start takes a proportional part of sampling_timesteps. With pred_noise, the highest timestep is the last
        one with alpha_bar >= MIN_ALPHA_BAR. Converting noise to x_start divides its error by sqrt(alpha_bar): at the
        end of the cosine schedule, that multiplies it by 20 000.
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
        """Denoise x, (b, c, h, w) at timestep times[0], to samples in the data's range."""
        low, high = guidance.get("guidance_interval", (0, 1))
        guidance_inside = {name: value for name, value in guidance.items() if name != "guidance_interval"}

        def denoise(x: Tensor, step: int) -> tuple[Tensor, Tensor]:
            is_guided = low <= (times[step] + 1) / self.num_timesteps <= high
            predict = self._predictor(is_guided, guidance_inside)
            x_start, noise = predict({"x": x, "t": torch.full_like(classes, times[step]), "classes": classes})
            if on_step is not None:
                on_step(times[step], self._unnormalize(x_start))
            return x_start, noise

        sampler = get_sampler(self.sampler, self.ddim_sampling_eta)
        self._forget_predictors_of_other_weights()
        try:
            x = sampler(denoise, x, [self.alpha_bars[t] for t in times] + [1.0],
                        lambda: draw_noise(x.shape, generators).to(x.device))
        except RuntimeError:
            self.predictors.clear()     # if memory ran out, they hold some
            raise
        return self._unnormalize(x)

    def _forget_predictors_of_other_weights(self) -> None:
        """Graphs read the weights where these lay when they were captured, and hold what was constant then."""
        now = (self.use_cfg_plus_plus, self.clip_x_start, *(parameter.data_ptr() for parameter in self.parameters()))
        if now != self.predictors_of:
            self.predictors.clear()
            self.predictors_of = now

    def __getstate__(self) -> dict[str, Any]:
        """For copies and files, which cannot hold CUDA graphs."""
        return {**self.__dict__, "predictors": {}, "predictors_of": ()}

    def _predictor(self, is_guided: bool, guidance: dict) -> Callable[[Inputs], tuple[Tensor, Tensor]]:
        """model_predictions with these arguments, as a function of x, t and classes. With uses_graphs, on CUDA, it
        becomes a graph, which is kept for the next samples.
        """
        def predict(inputs: Inputs) -> tuple[Tensor, Tensor]:
            return self.model_predictions(inputs["x"], inputs["t"], inputs["classes"], is_guided=is_guided, **guidance)

        if not self.uses_graphs:
            return predict
        key = is_guided, tuple(guidance.items()), torch.is_autocast_enabled("cuda")
        if key not in self.predictors:
            self.predictors[key] = Graphed(predict, self.device)
        graphed = self.predictors[key]
        return lambda inputs: tuple(result.clone() for result in graphed(inputs))   # a sampler keeps them for a while

    # ------------------------------------------------------------------------------------------------ conversions

    def _alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(alpha_bar) and sqrt(1 - alpha_bar) at timesteps t (b,), (b, 1, 1, 1) each."""
        return self.sqrt_alphas_cumprod[t].view(-1, 1, 1, 1), self.sqrt_one_minus_alphas_cumprod[t].view(-1, 1, 1, 1)

    def _normalize(self, img: Tensor) -> Tensor:
        return img * 2 - 1 if self.auto_normalize else img

    def _unnormalize(self, x: Tensor) -> Tensor:
        return (x + 1) / 2 if self.auto_normalize else x

    def _to_x_start(self, x: Tensor, t: Tensor, output: Tensor) -> Tensor:
        """The network's output as x_start. pred_v is v = alpha * noise - sigma * x_start (Salimans & Ho 2022)."""
        alpha, sigma = self._alpha_sigma(t)
        x_start = {"pred_x0": lambda: output, "pred_noise": lambda: (x - sigma * output) / alpha,
                   "pred_v": lambda: alpha * x - sigma * output}[self.objective]()
        return x_start.clamp(-1, 1) if self.clip_x_start else x_start

    def _to_noise(self, x: Tensor, t: Tensor, x_start: Tensor) -> Tensor:
        """The noise that gives x when it is mixed with x_start at timesteps t."""
        alpha, sigma = self._alpha_sigma(t)
        return (x - alpha * x_start) / sigma
