"""Diagnosis of a training run from its metrics.jsonl: what is wrong, and what to do about it."""
import math
from dataclasses import dataclass, replace

import numpy as np

from microdoppler.watch.metrics import MILESTONE_KEYS, Metrics, recent, smooth

# Losses are compared with the zero-output loss, the loss of a network that outputs zero. Training starts near it. It
# depends on the noise schedule, the loss weights and the objective. "Measured" values come from a small U-Net on linear
# latents of six real persons, or on latents with std 0.18.
JUDGE_LOSS_STEPS = (200, 2000)      # from a tenth of the run, within this range; at lr 1e-4 the loss falls by step 150
JUDGE_MILESTONES_FROM = 0.3         # share of the run; before it, averaged weights and samples lag behind the loss
USUAL_LR = (1e-4, 1e-3)             # learning rates that suit this network
MIN_LINES = 10                      # with fewer lines the mean loss says little: one line scatters by 5 to 8 %
# The loss is "not falling" above this multiple of the zero-output loss.
NOT_FALLING_STANDARDIZED = 0.9      # measured 0.7 after 250 steps at lr 1e-4
NOT_FALLING_RAW = 0.5               # a network that only scales its input reaches 0.2 on latents with std 0.18
# Points (progress of the run in 0 … 1, loss). The loss is "still high" above the line through them; for raw latents
# this line is straight in log(loss), and RAW_TOLERANCE times as high.
STILL_HIGH_STANDARDIZED = ((0, 1.0), (0.1, 0.85), (0.3, 0.7), (1, 0.6))     # x zero-output loss; measured 0.3 to 0.4
EXPECTED_RAW = ((0, 0.5), (0.2, 0.05), (80 / 150, 0.01), (1, 0.01))         # losses that earlier runs logged
EXPECTED_RAW_ZERO_OUTPUT = 0.21     # zero-output loss of those runs: pred_v, cosine, min-SNR 5, std 0.18
RAW_TOLERANCE = 3                   # because runs on noisy latents end well above those runs
FLAT_BELOW = 0.02                   # relative fall from the middle to the last third of the run; measured 0.07 or more
RISEN_ABOVE = 1.5                   # times the lowest running mean
SPIKE, SPIKE_SIGMAS = 1.5, 8        # a spike is above both: times the median of the 20 lines before; usual scatter
SPIKES_MIN, SPIKES_SHARE = 3, 0.01  # fewer spikes are harmless, because gradients are clipped
BAD_GRADIENTS_ABOVE = 0.05          # share of lines; the loss scaling of fp16 produces a few on purpose
MIN_CLASS_GAIN = 0.003              # measured 0.004 after 1000 steps at lr 1e-4, 0.010 after 3000
BLURRED_BELOW, NOISY_ABOVE = 0.75, 1.35     # sharpness; 1 is right
MIN_RECOGNISED = 0.5                # share of samples; images that look like another person harm a classifier
COLLAPSED_BELOW = 0.5               # diversity; 1 is right; measured 0.8 to 1.3 per user
MAX_COPIES = 0.1                    # share of near-copies; measured 0 to 0.01 on held-out real windows
SLOW_BELOW = 0.5                    # times the upper quartile of the speed so far


@dataclass(frozen=True)
class RunSettings:
    """Constants of the training run, with the names of config.json, and zero_output_loss: the loss of a network that
    outputs zero."""
    train_num_steps: int
    save_and_sample_every: int
    num_users: int
    standardize_latents: bool
    auto_normalize: bool
    cond_drop_prob: float
    min_loss_weight: float
    cond_scale: float
    use_cfg_plus_plus: bool
    train_lr: float
    max_grad_norm: float
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


def diagnose(metrics: Metrics, settings: RunSettings) -> list[Finding]:
    """The problems of the run; an empty list when there are none.

    Milestones are judged by the median of the last three, because a single one may be an outlier.
    """
    findings = [_find_nan(metrics, settings), _find_loss_problem(metrics, settings), _find_slowdown(metrics)]
    judged = metrics.milestones["step"] >= settings.judge_milestones_from
    latest = {}
    for key in MILESTONE_KEYS[2:]:
        values = metrics.milestones[key][judged][-3:]
        if np.isfinite(values).any():
            latest[key] = float(np.median(values[np.isfinite(values)]))
    of_samples = (_find_users_not_distinguishable(latest, settings), _find_wrong_sharpness(latest, settings),
                  _find_collapse(latest, metrics, settings), _find_copies(latest, metrics))
    source = f"median of the last {min(3, judged.sum())} milestones" if judged.sum() > 1 else "one milestone"
    findings += [finding and replace(finding, seen=f"{finding.seen} ({source})") for finding in of_samples]
    return [finding for finding in findings if finding is not None]


def _find_nan(metrics: Metrics, settings: RunSettings) -> Finding | None:
    loss, grad_norm = metrics.training["loss"], metrics.training["grad_norm"]
    bad_loss = ~np.isfinite(loss)
    bad_grad = ~np.isfinite(grad_norm[len(grad_norm) // 2:])
    if not bad_loss.any() and (len(loss) < MIN_LINES or bad_grad.mean() <= BAD_GRADIENTS_ABOVE):
        return None
    seen = []
    if bad_loss.any():
        seen.append(f"{bad_loss.sum()} of {len(loss)} lines have a loss that is NaN or infinite, first at step "
                    f"{metrics.training['step'][bad_loss][0]:.0f}")
    if bad_grad.any():
        seen.append(f"{bad_grad.sum()} of the last {len(bad_grad)} lines have a gradient norm that is")
    return Finding(
        "NaN", "; ".join(seen),
        f"numbers overflow; such steps change no weight ({metrics.training['skipped_steps'][-1]:.0f} were skipped), "
        "but in runs of earlier versions weights became NaN and stayed so, and later checkpoints are worthless",
        f"stop, and resume from the milestone before it with train_lr {settings.train_lr / 2:g} (now "
        f"{settings.train_lr:g}) and max_grad_norm {settings.max_grad_norm / 2:g} (now {settings.max_grad_norm:g}); "
        "if it returns, amp = False")


def _find_loss_problem(metrics: Metrics, settings: RunSettings) -> Finding | None:
    """The first of these that applies: unstable, not falling, plateau. The order matters: a loss that diverges can also
    be flat or high for a while."""
    finite = np.isfinite(metrics.training["loss"])
    loss, step = metrics.training["loss"][finite], metrics.step
    if len(loss) < MIN_LINES or step < settings.judge_loss_from or not recent(finite).any():
        return None
    now, lowest = recent(loss).mean(), np.nanmin(smooth(loss))
    spikes = _count_spikes(loss)
    has_spikes = spikes >= max(SPIKES_MIN, SPIKES_SHARE * len(loss) / 2)
    if has_spikes or np.median(recent(loss)) > RISEN_ABOVE * lowest:
        seen = f"{spikes} spikes in the last {len(loss) - len(loss) // 2} lines" if has_spikes else "the loss climbs"
        return Finding("unstable", f"{seen}: lowest mean {lowest:.4g}, now {now:.4g}, highest line {loss.max():.4g}",
                       "steps are too long for the loss to keep falling",
                       f"resume from the best milestone with train_lr {settings.train_lr / 2:g} (now "
                       f"{settings.train_lr:g}); max_grad_norm {settings.max_grad_norm / 2:g} (now "
                       f"{settings.max_grad_norm:g}); on a GPU without bf16 try amp = False")
    if now > settings.not_falling_above(step):
        return _loss_not_falling(loss, now, step, settings)
    middle, last = np.median(loss[len(loss) // 3:len(loss) * 2 // 3]), np.median(loss[len(loss) * 2 // 3:])
    still_high = settings.still_high_above(step)
    if step >= settings.judge_milestones_from and now > still_high and last > (1 - FLAT_BELOW) * middle:
        return Finding("plateau", f"the loss stands at {now:.4g}, {last / middle - 1:+.1%} from the middle to the last "
                       f"third of the steps so far; by step {step}, expected below {still_high:.3g}",
                       "training goes on, but no longer learns",
                       f"train_lr {settings.train_lr / 3:.2g} (now {settings.train_lr:g}) from the last milestone; if "
                       "that changes nothing, a wider network (dim), or a VAE with less noise in its latents: "
                       "python test_vae_range.py shows its reconstruction")
    return None


def _loss_not_falling(loss: np.ndarray, now: float, step: int, settings: RunSettings) -> Finding:
    """Blames the learning rate only where it is outside USUAL_LR."""
    first, lr, (low, high) = loss[:3].mean(), settings.train_lr, USUAL_LR
    out_of_range = settings.has_raw_latents or first > 2 * settings.zero_output_loss
    latents = "python test_vae_range.py shows the range of the latents, and whether the VAE is any good"
    if not settings.standardize_latents:
        latents += "; set standardize_latents = True and auto_normalize = False"
    causes, remedies = ["the latents are mostly noise"], [latents]
    if not low <= lr <= high:
        causes.insert(0, f"the learning rate is too {'low' if lr < low else 'high'}")
        better = f"train_lr {np.clip(lr / 3, low, high):.2g} (now {lr:g}; {low:g} to {high:g} suits this network)"
        remedies.insert(len(remedies) if out_of_range else 0, better)
    return Finding(
        "loss not falling",
        f"the loss began at {first:.4g} and is {now:.4g} at step {step}; a network that outputs zero has "
        f"{settings.zero_output_loss:.3g}",
        "the latents are not of the size that the noise schedule expects" if out_of_range else
        f"the network has learnt next to nothing: {', or '.join(causes)}", "; then ".join(remedies))


def _count_spikes(loss: np.ndarray, before: int = 20) -> int:
    """The number of spikes in the second half of loss (lines,). A spike is a line far above the median of the `before`
    lines that precede it."""
    if len(loss) < 2 * before:
        return 0
    windows = np.lib.stride_tricks.sliding_window_view(loss[:-1], before)
    ratio = loss[before:] / np.median(windows, axis=1)
    sigma = 1.4826 * np.median(np.abs(ratio - np.median(ratio)))        # standard deviation if the scatter is normal
    return int((ratio > max(SPIKE, 1 + SPIKE_SIGMAS * sigma))[-(len(loss) - len(loss) // 2):].sum())


def _find_slowdown(metrics: Metrics) -> Finding | None:
    speed = metrics.training["images_per_second"]
    if len(speed) < 2 * MIN_LINES:
        return None
    usual, now = np.quantile(speed, 0.75), np.median(recent(speed))
    if now >= SLOW_BELOW * usual:
        return None
    return Finding("slow", f"{now:.3g} images/s now, {usual:.3g} before", "something else takes the machine's time",
                   "look for other processes (nvidia-smi, top), a hot or throttled GPU, a full disk; after a resume, "
                   "whether it still runs on the same device")


def _find_users_not_distinguishable(latest: dict[str, float], settings: RunSettings) -> Finding | None:
    gain, recognised = latest.get("class_gain", math.inf), latest.get("recognised", 1.0)
    if settings.num_users < 2 or (gain > MIN_CLASS_GAIN and recognised >= MIN_RECOGNISED):
        return None
    seen, meaning = [], "the network makes little use of the user that it is told"
    if gain <= MIN_CLASS_GAIN:
        seen.append(f"told a wrong user, the network's loss rises by {gain:.2%}, expected more than "
                    f"{MIN_CLASS_GAIN:.1%}")
    if recognised < MIN_RECOGNISED:
        seen.append(f"{recognised:.0%} of the samples are taken for their own user by a classifier of real images, "
                    f"expected {MIN_RECOGNISED:.0%} or more")
        meaning = "samples look like another person than they are labelled: for a classifier, wrong labels"
    remedies = _train_longer(latest, settings)
    if settings.cond_drop_prob > 0.15:
        remedies.append(f"cond_drop_prob 0.15 (now {settings.cond_drop_prob:g})")
    if settings.min_loss_weight < 1:
        remedies.append(f"train a new model with min_loss_weight 1 (now {settings.min_loss_weight:g})")
    if settings.more_guidance and not _is_overguided(latest):
        remedies.append(f"until then generate with {settings.more_guidance}")
    remedies.append("check that the images lie in the right ID_* folders")
    return Finding("users not distinguishable", "; ".join(seen), meaning, "; ".join(remedies))


def _train_longer(latest: dict[str, float], settings: RunSettings) -> list[str]:
    """The remedy "train longer"; [] where samples are already copies of training images, which it makes worse."""
    if latest.get("copies", 0.0) > MAX_COPIES:
        return []
    return [f"train longer (train_num_steps, now {settings.train_num_steps})"]


def _is_overguided(latest: dict[str, float]) -> bool:
    """Whether the samples show signs of too much guidance: exaggerated contrast or little diversity."""
    return latest.get("sharpness", 1.0) > NOISY_ABOVE or latest.get("diversity", 1.0) < COLLAPSED_BELOW


def _find_wrong_sharpness(latest: dict[str, float], settings: RunSettings) -> Finding | None:
    value = latest.get("sharpness", 1.0)
    seen = (f"samples have {value:.2f} times the pixel gradient of training images that went through the VAE; expected "
            "about 1")
    longer = _train_longer(latest, settings)
    steps = f"sampling_timesteps {2 * settings.sampling_timesteps} (now {settings.sampling_timesteps})"
    if value < BLURRED_BELOW:
        blurred_vae = ("if real images look blurred after the VAE as well (python test_vae_range.py), train the VAE "
                       "longer")
        return Finding("blurred samples", seen, "fine detail is not learnt yet, or averaged away",
                       "; ".join([*longer, steps, blurred_vae]))
    if value > NOISY_ABOVE:
        less = [settings.less_guidance] if settings.less_guidance else []
        return Finding("noisy samples", seen, "noise is left in the samples, or guidance exaggerates",
                       "; ".join([steps, *less, *longer,
                                  "if it stays: python test_vae_range.py and standardize_latents = True"]))
    return None


def _find_collapse(latest: dict[str, float], metrics: Metrics, settings: RunSettings) -> Finding | None:
    diversity = latest.get("diversity", 1.0)
    if diversity >= COLLAPSED_BELOW:
        return None
    less = [f"lower the guidance: {settings.less_guidance}"] if settings.less_guidance else []
    earlier = _use_an_earlier_milestone(metrics, metrics.milestones["diversity"] >= COLLAPSED_BELOW)
    return Finding("collapsing", f"a user's samples lie {diversity:.2f} times as far from each other as training "
                   f"images do; expected about 1, at least {COLLAPSED_BELOW}",
                   "the same few pictures are generated again and again",
                   "; ".join([*less, *(earlier or _train_longer(latest, settings))]))


def _find_copies(latest: dict[str, float], metrics: Metrics) -> Finding | None:
    copies = latest.get("copies", 0.0)
    if copies <= MAX_COPIES:
        return None
    earlier = _use_an_earlier_milestone(metrics, metrics.milestones["copies"] <= MAX_COPIES)
    return Finding("memorising", f"{copies:.0%} of the samples are near-copies of training images, shifted in time or "
                   f"not; expected at most {MAX_COPIES:.0%}",
                   "training images are memorised: copies add nothing for the classifier",
                   "; ".join([*earlier, "drop copies with classify.py --select", "train for fewer steps, with more "
                              "images per user (images_per_user_train), more cuts_per_hop or a smaller network (dim)"]))


def _use_an_earlier_milestone(metrics: Metrics, is_good: np.ndarray) -> list[str]:
    """The remedy that names the last milestone before those of the median that is_good (milestones,); [] if none is."""
    good = metrics.milestones["milestone"][:-3][is_good[:-3]]
    return [f"generate from an earlier milestone, such as {good[-1]:.0f}"] if len(good) else []
