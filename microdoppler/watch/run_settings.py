"""What the diagnosis knows of a training run besides its metrics, and the loss that it expects of a healthy one."""
import math
from dataclasses import dataclass

import numpy as np

# Losses are compared with the zero-output loss, the loss of a network that outputs zero. Training starts near it. It
# depends on the noise schedule, the loss weights and the objective. "Measured" values come from a small U-Net on linear
# latents of six real persons, or on latents with std 0.18.
JUDGE_LOSS_STEPS = (200, 2000)      # from a tenth of the run, within this range; at lr 1e-4 the loss falls by step 150
JUDGE_MILESTONES_FROM = 0.3         # share of the run; before it, averaged weights and samples lag behind the loss
# The loss is "not falling" above this multiple of the zero-output loss.
NOT_FALLING_STANDARDIZED = 0.9      # measured 0.7 after 250 steps at lr 1e-4
NOT_FALLING_RAW = 0.5               # a network that only scales its input reaches 0.2 on latents with std 0.18
# Points (progress of the run in 0 … 1, loss). The loss is "still high" above the line through them; for raw latents
# this line is straight in log(loss), and RAW_TOLERANCE times as high.
STILL_HIGH_STANDARDIZED = ((0, 1.0), (0.1, 0.85), (0.3, 0.7), (1, 0.6))     # x zero-output loss; measured 0.3 to 0.4
EXPECTED_RAW = ((0, 0.5), (0.2, 0.05), (80 / 150, 0.01), (1, 0.01))         # losses that earlier runs logged
EXPECTED_RAW_ZERO_OUTPUT = 0.21     # zero-output loss of those runs: pred_v, cosine, min-SNR 5, std 0.18
RAW_TOLERANCE = 3                   # because runs on noisy latents end well above those runs


@dataclass(frozen=True)
class RunSettings:
    """Constants of the training run, with the names of config.json, the usual cond_drop_prob, and zero_output_loss: the
    loss of a network that outputs zero."""
    train_num_steps: int
    save_and_sample_every: int
    num_users: int
    standardize_latents: bool
    auto_normalize: bool
    cond_drop_prob: float
    usual_cond_drop_prob: float         # the default of the run's preset
    min_loss_weight: float
    cond_scale: float
    use_cfg_plus_plus: bool
    train_lr: float
    max_grad_norm: float
    sampler: str
    sampling_timesteps: int
    zero_output_loss: float

    @property
    def has_raw_latents(self) -> bool:
        """Whether the network sees the latents as the VAE scales them, usually with a std of 0.18."""
        return not (self.standardize_latents or self.auto_normalize)

    @property
    def more_guidance(self) -> str:
        """Remedy "cond_scale <higher> (now <current>)", or "" when it cannot be higher."""
        return self._cond_scale(min(1.0, 2 * self.cond_scale) if self.use_cfg_plus_plus else self.cond_scale + 1)

    @property
    def less_guidance(self) -> str:
        """Remedy "cond_scale <lower> (now <current>)", or "" when it cannot be lower."""
        return self._cond_scale(self.cond_scale / 2 if self.use_cfg_plus_plus
                                else min(self.cond_scale, max(1.0, self.cond_scale - 2)))

    def _cond_scale(self, value: float) -> str:
        return "" if value == self.cond_scale else f"cond_scale {value:g} (now {self.cond_scale:g})"

    @property
    def judge_loss_from(self) -> int:
        """The first step at which the loss is judged."""
        return int(np.clip(self.train_num_steps // 10, *JUDGE_LOSS_STEPS))

    @property
    def judge_milestones_from(self) -> int:
        """The first step whose milestone is judged."""
        return math.ceil(JUDGE_MILESTONES_FROM * self.train_num_steps)

    @property
    def expected_loss(self) -> str:
        """The course of the loss in a healthy run, as text."""
        if not self.has_raw_latents:
            low, high = 0.3 * self.zero_output_loss, 0.6 * self.zero_output_loss
            return (f"{self.zero_output_loss:.2g} at the start, {low:.2g} to {high:.2g} at the end, most of the way in "
                    "the first tenth; never near 0: noise and fine detail look alike")
        scale = self.zero_output_loss / EXPECTED_RAW_ZERO_OUTPUT
        parts = [f"{scale * loss:.2g} by step {place * self.train_num_steps:.0f}" for place, loss in EXPECTED_RAW[1:-1]]
        return f"{', '.join(parts)}, {scale * 0.001:.2g} to {scale * 0.01:.2g} at the end"

    def not_falling_above(self, step: int) -> float:
        """The loss above which the network has learnt nothing at this step."""
        if self.has_raw_latents:
            return max(NOT_FALLING_RAW * self.zero_output_loss, self.still_high_above(step))
        return NOT_FALLING_STANDARDIZED * self.zero_output_loss

    def still_high_above(self, step: int) -> float:
        """The loss above which a run is worse than a healthy one at this step."""
        progress = step / self.train_num_steps
        if not self.has_raw_latents:
            places, shares = zip(*STILL_HIGH_STANDARDIZED)
            return self.zero_output_loss * np.interp(progress, places, shares)
        places, losses = zip(*EXPECTED_RAW)
        expected = math.exp(np.interp(progress, places, np.log(losses)))
        return RAW_TOLERANCE * expected * self.zero_output_loss / EXPECTED_RAW_ZERO_OUTPUT


@dataclass(frozen=True)
class Finding:
    """One problem of the run, as text."""
    name: str
    seen: str       # the numbers that show it, and what was expected
    meaning: str    # what it means for the model
    remedy: str     # what to do, with the constants and their values
