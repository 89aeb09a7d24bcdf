"""Diagnosis of a training run from its metrics.jsonl: what is wrong, and what to do about it."""
import math
from dataclasses import replace

import numpy as np

from microdoppler.watch.metrics import MILESTONE_KEYS, Metrics, recent, smooth
from microdoppler.watch.run_settings import Finding, RunSettings
from microdoppler.watch.sample_findings import find_blurring_vae, find_in_samples, how_many

USUAL_LR = (1e-4, 1e-3)             # learning rates that suit this network
MIN_LINES = 10                      # with fewer lines the mean loss says little: one line scatters by 5 to 8 %
FLAT_BELOW = 0.02                   # relative fall from the middle to the last third of the run; measured 0.07 or more
RISEN_ABOVE = 1.5                   # times the lowest running mean
SPIKE, SPIKE_SIGMAS = 1.5, 8        # a spike is above both: times the median of the 20 lines before; usual scatter
SPIKES_MIN, SPIKES_SHARE = 3, 0.01  # fewer spikes are harmless, because gradients are clipped
BAD_GRADIENTS_ABOVE = 0.05          # share of lines; the loss scaling of fp16 produces a few on purpose
SLOW_BELOW = 0.5                    # times the upper quartile of the speed so far


def diagnose(metrics: Metrics, settings: RunSettings) -> list[Finding]:
    """The problems of the run; an empty list when there are none.

    Milestones are judged by the median of the last three, because a single one may be an outlier. What the VAE blurs
    does not change with training, and is told at once.
    """
    findings = [_find_nan(metrics, settings), _find_loss_problem(metrics, settings), _find_slowdown(metrics)]
    judged = metrics.milestones["step"] >= settings.judge_milestones_from
    latest = {}
    for key in MILESTONE_KEYS[2:]:
        values = metrics.milestones[key][judged][-3:]
        if np.isfinite(values).any():
            latest[key] = float(np.median(values[np.isfinite(values)]))
    source = f"median of the last {min(3, judged.sum())} milestones" if judged.sum() > 1 else "one milestone"
    count = how_many(latest.get("num_samples", math.nan))
    source += f" of {count}" if count else ""
    findings += [replace(finding, seen=f"{finding.seen} ({source})")
                 for finding in find_in_samples(latest, metrics, settings)]
    findings.append(find_blurring_vae(metrics))
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
