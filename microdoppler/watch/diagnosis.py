"""What metrics.jsonl says about a training run: where it stands, what is wrong, and what to do about it."""
import math
from dataclasses import dataclass

import numpy as np

from microdoppler.watch.metrics import MILESTONE_KEYS, Metrics, recent, smooth

# Losses are judged in units of the start level, the loss of a network that outputs zero, since both depend on schedule,
# weighting and objective. "Measured" = a small U-Net on linear latents of six real persons, or of std 0.18.
JUDGE_LOSS_STEPS = (200, 2000)      # judge from a tenth of the run, within these: lr 1e-4 leaves the start level by 150
JUDGE_MILESTONES_FROM = 0.3         # of the run: before it, averaged weights and samples lag behind the loss
MIN_LINES = 10                      # below it a mean of the loss says little (a line scatters by 5 to 8 %)
NOT_FALLING_STANDARDIZED = 0.9      # x start: measured 0.7 after 250 steps at lr 1e-4
NOT_FALLING_RAW = 0.5               # x start, and still high: scaling the input, no more, brings std 0.18 to 0.2
STILL_HIGH_STANDARDIZED = ((0, 1.0), (0.1, 0.85), (0.3, 0.7), (1, 0.6))     # progress, x start; measured 0.3 to 0.4
EXPECTED_RAW = ((0, 0.5), (0.2, 0.05), (80 / 150, 0.01), (1, 0.01))         # progress, loss: what earlier runs logged
EXPECTED_RAW_START = 0.21           # the start level of those runs: pred_v, cosine, min-SNR 5, std 0.18
RAW_TOLERANCE = 3                   # x EXPECTED_RAW is still high: noisy latents end well above those runs
FLAT = 0.02                         # fall between the middle and last third of the run; measured 0.07 and more
RISEN = 1.5                         # x the lowest running mean
SPIKE, SPIKE_SIGMAS = 1.5, 8        # x the median of the 20 lines before, and beyond the usual scatter
SPIKES_MIN, SPIKES_SHARE = 3, 0.01  # fewer are harmless: clipping deals with them
BAD_GRADIENTS = 0.05                # share of lines: fp16's loss scaling makes a few on purpose
CLASS_GAIN = 0.003                  # measured 0.004 after 1000 steps at lr 1e-4, 0.010 after 3000
BLURRED, NOISY = 0.75, 1.35         # sharpness, 1 is right
RECOGNISED = 0.5                    # share of samples; images of another person than they are labelled do harm
COLLAPSED = 0.5                     # diversity, 1 is right; measured 0.8 to 1.3 per user
COPIED = 0.1                        # share of near-copies; of held-out real windows measured 0 to 0.01
SLOWED = 0.5                        # x the upper quartile of the speed so far


@dataclass(frozen=True)
class Settings:
    """Of the run, under their names in config.json; start_loss: the loss of a network that outputs zero."""
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
    start_loss: float

    @property
    def is_raw(self) -> bool:
        return not (self.standardize_latents or self.auto_normalize)

    @property
    def more_guidance(self) -> str:
        """"cond_scale <next> (now <this>)", or "" at the end of its range; likewise less_guidance."""
        return self._cond_scale(min(1.0, 2 * self.cond_scale) if self.use_cfg_plus_plus else self.cond_scale + 1)

    @property
    def less_guidance(self) -> str:
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
        return math.ceil(JUDGE_MILESTONES_FROM * self.train_num_steps)

    @property
    def expected_loss(self) -> str:
        """What a healthy run's loss does, for people."""
        if not self.is_raw:
            low, high = 0.3 * self.start_loss, 0.6 * self.start_loss
            return (f"{self.start_loss:.2g} at the start, {low:.2g} to {high:.2g} at the end, most of the way in the "
                    "first tenth; never near 0: noise and fine detail look alike")
        scale = self.start_loss / EXPECTED_RAW_START
        parts = [f"{scale * loss:.2g} by step {place * self.train_num_steps:.0f}" for place, loss in EXPECTED_RAW[1:-1]]
        return f"{', '.join(parts)}, {scale * 0.001:.2g} to {scale * 0.01:.2g} at the end"

    def stuck_above(self, step: int) -> float:
        """The loss above which nothing has been learnt by this step."""
        if self.is_raw:
            return max(NOT_FALLING_RAW * self.start_loss, self.still_high(step))
        return NOT_FALLING_STANDARDIZED * self.start_loss

    def still_high(self, step: int) -> float:
        """The loss that a healthy run has fallen below by this step."""
        progress = step / self.train_num_steps
        if not self.is_raw:
            places, shares = zip(*STILL_HIGH_STANDARDIZED)
            return self.start_loss * np.interp(progress, places, shares)
        places, losses = zip(*EXPECTED_RAW)
        expected = math.exp(np.interp(progress, places, np.log(losses)))
        return RAW_TOLERANCE * expected * self.start_loss / EXPECTED_RAW_START


@dataclass(frozen=True)
class Finding:
    name: str
    seen: str
    meaning: str
    remedy: str


def diagnose(metrics: Metrics, settings: Settings) -> list[Finding]:
    """What is wrong; an empty list when nothing is."""
    findings = [_numbers(metrics, settings), _loss(metrics, settings), _speed(metrics)]
    judged = metrics.milestones["step"] >= settings.judge_milestones_from
    latest = {}
    for key in MILESTONE_KEYS[2:]:
        values = metrics.milestones[key][judged][-3:]       # a median of three, as one milestone may be an accident
        if np.isfinite(values).any():
            latest[key] = float(np.median(values[np.isfinite(values)]))
    findings += [_users(latest, settings), _sharpness(latest, settings), _collapse(latest, settings), _copies(latest)]
    return [finding for finding in findings if finding is not None]


def _numbers(metrics: Metrics, settings: Settings) -> Finding | None:
    loss, grad_norm = metrics.training["loss"], metrics.training["grad_norm"]
    bad_loss = ~np.isfinite(loss)
    bad_grad = ~np.isfinite(grad_norm[len(grad_norm) // 2:])
    if not bad_loss.any() and (len(loss) < MIN_LINES or bad_grad.mean() <= BAD_GRADIENTS):
        return None
    first = f", first at step {metrics.training['step'][bad_loss][0]:.0f}" if bad_loss.any() else ""
    return Finding(
        "NaN",
        f"{bad_loss.sum()} of {len(loss)} lines have a loss that is NaN or infinite{first}; "
        f"{bad_grad.sum()} of the last {len(bad_grad)} have such a gradient norm",
        f"numbers overflow; such steps change no weight ({metrics.training['skipped_steps'][-1]:.0f} were skipped), "
        "but in runs of earlier versions weights became NaN and stayed so, and later checkpoints are worthless",
        f"stop, and resume from the milestone before it with train_lr {settings.train_lr / 2:g} (now "
        f"{settings.train_lr:g}) and max_grad_norm {settings.max_grad_norm / 2:g} (now {settings.max_grad_norm:g}); "
        "if it returns, amp = False")


def _loss(metrics: Metrics, settings: Settings) -> Finding | None:
    """The first that holds of: unstable, not falling, plateau. A loss that diverges is flat or high at times, too."""
    finite = np.isfinite(metrics.training["loss"])
    loss, step = metrics.training["loss"][finite], metrics.step
    if len(loss) < MIN_LINES or step < settings.judge_loss_from or not recent(finite).any():
        return None
    now, lowest = recent(loss).mean(), np.nanmin(smooth(loss))
    spikes = _count_spikes(loss)
    has_spikes = spikes >= max(SPIKES_MIN, SPIKES_SHARE * len(loss) / 2)
    if has_spikes or np.median(recent(loss)) > RISEN * lowest:
        seen = f"{spikes} spikes in the last {len(loss) - len(loss) // 2} lines" if has_spikes else "the loss climbs"
        return Finding("unstable", f"{seen}: lowest mean {lowest:.4g}, now {now:.4g}, highest line {loss.max():.4g}",
                       "steps are too long for the loss to keep falling",
                       f"resume from the best milestone with train_lr {settings.train_lr / 2:g} (now "
                       f"{settings.train_lr:g}); max_grad_norm {settings.max_grad_norm / 2:g} (now "
                       f"{settings.max_grad_norm:g}); on a GPU without bf16 try amp = False")
    if now > settings.stuck_above(step):
        return _not_falling(loss, now, step, settings)
    middle, last = np.median(loss[len(loss) // 3:len(loss) * 2 // 3]), np.median(loss[len(loss) * 2 // 3:])
    if step >= settings.judge_milestones_from and now > settings.still_high(step) and last > (1 - FLAT) * middle:
        return Finding("plateau", f"the loss stands at {now:.4g}, {last / middle - 1:+.1%} from the middle to the last "
                       f"third of the steps so far; by step {step}, expected below {settings.still_high(step):.3g}",
                       "training goes on, but no longer learns",
                       f"train_lr {settings.train_lr / 3:.2g} (now {settings.train_lr:g}) from the last milestone; if "
                       "that changes nothing, a wider network (dim), or a VAE with less noise in its latents: "
                       "python test_vae_range.py shows its reconstruction")
    return None


def _not_falling(loss: np.ndarray, now: float, step: int, settings: Settings) -> Finding:
    first, low = loss[:3].mean(), settings.train_lr < 1e-4
    out_of_range = settings.is_raw or first > 2 * settings.start_loss
    latents = "python test_vae_range.py shows the range of the latents, and whether the VAE is any good"
    if not settings.standardize_latents:
        latents += "; set standardize_latents = True and auto_normalize = False"
    rate = (f"train_lr {1e-4 if low else min(settings.train_lr / 3, 1e-3):.2g} (now {settings.train_lr:g}; "
            "1e-4 to 1e-3 suits this network)")
    return Finding(
        "loss not falling",
        f"the loss began at {first:.4g} and is {now:.4g} at step {step}; a network that outputs zero has "
        f"{settings.start_loss:.3g}",
        "the latents are not of the size that the noise schedule expects" if out_of_range else
        f"the network has learnt next to nothing: the learning rate is too {'low' if low else 'high'}, "
        "or the latents are mostly noise",
        "; then ".join((latents, rate) if out_of_range else (rate, latents)))


def _count_spikes(loss: np.ndarray, before: int = 20) -> int:
    """Lines in the later half of (n,) that stand out from the `before` lines in front of them."""
    if len(loss) < 2 * before:
        return 0
    windows = np.lib.stride_tricks.sliding_window_view(loss[:-1], before)
    ratio = loss[before:] / np.median(windows, axis=1)
    sigma = 1.4826 * np.median(np.abs(ratio - np.median(ratio)))        # of a normal distribution with that scatter
    return int((ratio > max(SPIKE, 1 + SPIKE_SIGMAS * sigma))[-(len(loss) - len(loss) // 2):].sum())


def _speed(metrics: Metrics) -> Finding | None:
    speed = metrics.training["images_per_second"]
    if len(speed) < 2 * MIN_LINES:
        return None
    usual, now = np.quantile(speed, 0.75), np.median(recent(speed))
    if now >= SLOWED * usual:
        return None
    return Finding("slow", f"{now:.3g} images/s now, {usual:.3g} before", "something else takes the machine's time",
                   "look for other processes (nvidia-smi, top), a hot or throttled GPU, a full disk; after a resume, "
                   "whether it still runs on the same device")


def _users(latest: dict[str, float], settings: Settings) -> Finding | None:
    gain, recognised = latest.get("class_gain", math.inf), latest.get("recognised", 1.0)
    if settings.num_users < 2 or (gain > CLASS_GAIN and recognised >= RECOGNISED):
        return None
    better = [f"{name} {wanted:g} (now {now:g})" for name, now, wanted in (
        ("min_loss_weight", settings.min_loss_weight, max(1.0, settings.min_loss_weight)),
        ("cond_drop_prob", settings.cond_drop_prob, min(0.15, settings.cond_drop_prob))) if now != wanted]
    remedies = [f"train again with {' and '.join(better)}; until then" if better else "",
                f"raise the guidance: {settings.more_guidance}, or"
                if settings.more_guidance and not _is_overguided(latest) else "",
                "use an earlier milestone; check that the images lie in the right ID_* folders"]
    return Finding("users not distinguishable",
                   f"told a wrong user, the network's loss rises by {gain:.2%}, expected more than {CLASS_GAIN:.1%}; "
                   f"{recognised:.0%} of the samples are taken for their own user by a classifier of real images, "
                   f"expected {RECOGNISED:.0%} or more",
                   "samples look like another person than they are labelled: for a classifier, wrong labels",
                   " ".join(remedy for remedy in remedies if remedy))


def _is_overguided(latest: dict[str, float]) -> bool:
    """Whether the samples look as if there were too much guidance, whatever else is wrong."""
    return latest.get("sharpness", 1.0) > NOISY or latest.get("diversity", 1.0) < COLLAPSED


def _sharpness(latest: dict[str, float], settings: Settings) -> Finding | None:
    value = latest.get("sharpness", 1.0)
    seen = f"samples have {value:.2f} times the pixel gradient of decoded training images; expected about 1"
    if value < BLURRED:
        return Finding("blurred samples", seen, "fine detail is not drawn yet, or averaged away",
                       f"train longer (train_num_steps, now {settings.train_num_steps}); sampling_timesteps "
                       f"{2 * settings.sampling_timesteps} (now {settings.sampling_timesteps}); if real images look "
                       "blurred after the VAE as well (python test_vae_range.py), train the VAE longer")
    if value > NOISY:
        return Finding("noisy samples", seen, "noise is left in the samples, or guidance exaggerates",
                       f"sampling_timesteps {2 * settings.sampling_timesteps} (now {settings.sampling_timesteps}); "
                       + (f"{settings.less_guidance}; " if settings.less_guidance else "") +
                       "train longer; if it stays: "
                       "python test_vae_range.py and standardize_latents = True")
    return None


def _collapse(latest: dict[str, float], settings: Settings) -> Finding | None:
    diversity = latest.get("diversity", 1.0)
    if diversity >= COLLAPSED:
        return None
    return Finding("collapsing", f"a user's samples lie {diversity:.2f} times as far from each other as training "
                   f"images do; expected about 1, at least {COLLAPSED}",
                   "the same few pictures are drawn again and again",
                   (f"lower the guidance: {settings.less_guidance}; " if settings.less_guidance else "")
                   + "generate from an earlier milestone")


def _copies(latest: dict[str, float]) -> Finding | None:
    copies = latest.get("copies", 0.0)
    if copies <= COPIED:
        return None
    return Finding("memorising", f"{copies:.0%} of the samples are near-copies of training images, shifted in time or "
                   f"not; expected at most {COPIED:.0%}",
                   "training images are memorised: copies add nothing for the classifier",
                   "generate from an earlier milestone, and drop copies with classify.py --select; train for fewer "
                   "steps, with more images per user (images_per_user_train), more cuts_per_hop or a smaller network "
                   "(dim)")
