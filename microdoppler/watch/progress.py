"""The progress of a training run and its diagnosis, as text."""
import math
import textwrap

import numpy as np

from groundwork.progress import format_duration
from microdoppler.watch.metrics import Metrics, recent
from microdoppler.watch.run_settings import Finding, RunSettings
from microdoppler.watch.sample_findings import how_many


def progress(metrics: Metrics, settings: RunSettings) -> list[str]:
    """The progress of the run, as lines of text."""
    training, total = metrics.training, settings.train_num_steps
    if not len(training["step"]):
        return [f"step 0 of {total}: no line of metrics yet"]
    milestones = math.ceil(total / settings.save_and_sample_every)
    done = int(metrics.milestones["milestone"][-1]) if len(metrics.milestones["milestone"]) else 0
    left = max(0, total - metrics.step) * seconds_per_step(training)     # train_num_steps may have been lowered
    remaining = ("complete" if is_complete(metrics, settings) else
                 f"{format_duration(left)} left, milestones not counted")
    lines = [f"step {metrics.step} of {total} ({metrics.step / total:.1%}), milestone {done} of {milestones}",
             f"{np.median(recent(training['images_per_second'])):.3g} images/s, "
             f"{format_duration(training['wall_time'][-1])} of training, {remaining}",
             f"loss {loss_trend(training)}", f"healthy: {settings.expected_loss}"]
    if skipped := int(training["skipped_steps"][-1]):
        lines.append(f"{skipped} steps skipped, as their gradients were not finite")
    if done:
        lines += milestone_lines({key: values[-1] for key, values in metrics.milestones.items()})
    if metrics.broken_lines:
        lines.append(f"{metrics.broken_lines} lines of metrics.jsonl cannot be read, and were left out")
    return lines


def milestone_lines(latest: dict[str, float]) -> list[str]:
    """The figures of a milestone as lines of text; latest: {key of MILESTONE_KEYS: value}, NaN where an earlier version
    did not measure it."""
    lines = [f"milestone {latest['milestone']:.0f}: class gain {latest['class_gain']:.3f} (above 0 = tells users "
             "apart)"]
    if math.isfinite(latest["speckle"]):
        lines += [f"  texture beside training images: {texture_text(latest)}; these after the VAE: speckle contrast "
                  f"{latest['speckle_of_vae']:.2f}"]
        if math.isfinite(latest["held_out_speckle"]):
            lines.append(f"  held-out real images, the values to reach: {texture_text(_held_out(latest))}")
    if math.isfinite(latest["recognised"]):
        lines.append(f"  {how_many(latest['num_samples']) or 'samples'}: {figures_of_images(latest)}")
    if math.isfinite(latest["held_out_recognised"]):
        count = how_many(latest["held_out_count"], "held-out real images") or "held-out real images"
        lines.append(f"  {count}, the values to reach: {figures_of_images(_held_out(latest))}")
    elif latest["num_samples"] > 0:
        lines.append("  the values to reach are unknown: the split has no validation part with these users")
    return lines


def figures_of_images(values: dict[str, float]) -> str:
    """The figures of a set of images as text: recognised, diversity and copies."""
    diversity = f"{values['diversity']:.2f}" if math.isfinite(values["diversity"]) else "unknown"
    return (f"{values['recognised']:.0%} recognised as their user, diversity {diversity} (by training images), "
            f"{values['copies']:.0%} near-copies")


def _held_out(latest: dict[str, float]) -> dict[str, float]:
    """The figures of held-out real images, by the names of those of samples."""
    return {name.removeprefix("held_out_"): value for name, value in latest.items() if "held_out" in name}


def texture_text(values: dict[str, float]) -> str:
    """The texture of a set of images as text: speckle, radial_db and doppler_db."""
    return (f"speckle contrast {values['speckle']:.2f} (1 = as theirs), spectra off by {values['radial_db']:.1f} dB "
            f"(radial) and {values['doppler_db']:.1f} dB (Doppler)")


def is_complete(metrics: Metrics, settings: RunSettings) -> bool:
    """Whether the last milestone has been evaluated. This ends some time after the last training step."""
    steps = metrics.milestones["step"]
    return len(steps) > 0 and steps[-1] >= settings.train_num_steps


def seconds_per_step(training: dict[str, np.ndarray]) -> float:
    """Mean over the recent lines; training: Metrics.training with at least one line."""
    # The point (step 0, 0 seconds) stands for the start, where there is no line yet.
    step, wall_time = (np.insert(training[key], 0, 0) for key in ("step", "wall_time"))
    first = -1 - len(recent(step[1:]))
    return (wall_time[-1] - wall_time[first]) / (step[-1] - step[first])


def loss_trend(training: dict[str, np.ndarray]) -> str:
    """The mean loss of the recent lines, and its change from the mean of as many lines before them."""
    loss, window = training["loss"], len(recent(training["loss"]))
    now, before = loss[-window:].mean(), loss[-2 * window:-window]
    if len(before) < window:
        return f"{now:.4g}"
    steps = training["step"][-1] - training["step"][-1 - window]
    return f"{now:.4g}, {now / before.mean() - 1:+.1%} from the {steps:.0f} steps before"


def verdict(findings: list[Finding], metrics: Metrics, settings: RunSettings) -> str:
    """The diagnosis as text: the findings, or that all is well and what has not been judged yet."""
    if not findings:
        starts = {"the loss": settings.judge_loss_from, "sample quality": settings.judge_milestones_from}
        early = [f"{what} is judged from step {step}" for what, step in starts.items() if metrics.step < step]
        return "all is well" + (f" so far ({', '.join(early)})" if early else "")
    parts = []
    for finding in findings:
        parts += [finding.name.upper()] + [
            textwrap.fill(f"{title:<9}{text}", 100, initial_indent="  ", subsequent_indent=" " * 11)
            for title, text in (("seen", finding.seen), ("means", finding.meaning), ("remedy", finding.remedy))]
    return "\n".join(parts)
