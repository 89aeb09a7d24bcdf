"""Training as a whole: no waiting between log lines, broken batches, resuming; and the references' training."""
import time
from statistics import median

import numpy as np
import torch

from benchmarks import reference
from benchmarks.checks.check import Outcome, Setting, difference, make_trainer, smooth_cache, weights_of
from benchmarks.checks.step import time_steps
from denoising_diffusion_pytorch.trainer import MAX_SKIPPED, Trainer, batch_indices
from groundwork.errors import InputError
from groundwork.stopping import StopRequest
from microdoppler.data.latents import LatentCache

LEAST_RATIO = 15.0      # of the faster reference's step to ours, on a card of capability 8.0 or more
LEAST_FALL = 0.8        # of the loss, from the first steps to the last


def references(setting: Setting) -> Outcome:
    """A training step of denoising-diffusion-pytorch on the same device, beside ours. On cards below capability 8.0 it
    is not known how fast ours should be, so that the ratio is only reported."""
    ours, found = time_steps(setting)["ms"], {}
    cache = smooth_cache(setting.config)
    latents = (cache.scaled_means(torch.arange(len(cache))) + 1) / 2
    for version in reference.VERSIONS:
        training = reference.Training(setting.config, latents, cache.labels, setting.device, version)
        seconds = []
        for _ in range(setting.count(24, 3)):
            started = time.perf_counter()
            training.step()
            if setting.on_cuda:
                torch.cuda.synchronize(setting.device)
            seconds.append(time.perf_counter() - started)
        found[version] = 1000 * median(seconds[len(seconds) // 4:])
    ratio = min(found.values()) / ours
    must = setting.on_cuda and setting.is_held_to_ratios
    return Outcome(ratio > LEAST_RATIO or not must,
                   ", ".join(f"{version} {ms:.3g} ms" for version, ms in found.items())
                   + f"; ours {ours:.3g} ms, {ratio:.3g} times as fast" + must * f" (above {LEAST_RATIO:g})",
                   {"reference_ms": found, "ours_ms": ours, "ratio": ratio})


def no_waiting_between_log_lines(setting: Setting) -> Outcome:
    """300 steps in which the CPU never waits for the device, but every 50 steps; the loss falls."""
    trainer, every = make_trainer(setting), setting.count(50, 10)
    means = []
    for line in range(6):
        losses = []
        for step in range(every):
            if setting.on_cuda and (line or step > 10):     # the first steps capture graphs
                torch.cuda.set_sync_debug_mode("error")
            try:
                losses.append(trainer.train_step()[0].clone())
            finally:
                if setting.on_cuda:
                    torch.cuda.set_sync_debug_mode("default")
        means.append(torch.stack(losses).mean().item())
    fall = means[-1] / means[0]
    return Outcome(fall < LEAST_FALL, f"{6 * every} steps; the loss fell from {means[0]:.3g} to {means[-1]:.3g}, to "
                   f"{fall:.2g} of the first (below {LEAST_FALL:g})", {"losses": means})


def _poison(cache: LatentCache, index: int | slice) -> None:
    """Make latents NaN, in the cache and in its copy on a card."""
    cache.posteriors[index] = np.nan
    if cache.resident is not None:
        cache.resident[0][index] = float("nan")


def broken_batches_are_skipped(setting: Setting) -> Outcome:
    """One latent is NaN: the steps that draw it change no weights, and are counted."""
    cache = smooth_cache(setting.config)
    trainer = make_trainer(setting, cache=cache, amp=False)     # with float16, a skipped step is also the scaler's
    _poison(cache, 0)
    steps = 2 * len(cache) // trainer.global_batch      # every latent is drawn twice
    broken = [step for step in range(steps)
              if 0 in batch_indices(step, trainer.global_batch, len(cache), setting.config.seed)]
    kept = True
    for step in range(steps):
        before = weights_of(trainer, ema=False) if step in broken else None
        trainer.train_step()
        kept &= before is None or torch.equal(before, weights_of(trainer, ema=False))
    skipped, finite = trainer.state_dict()["skipped_steps"], bool(weights_of(trainer).isfinite().all())
    return Outcome(skipped == len(broken) and finite and kept,
                   f"{skipped} of {steps} steps skipped (expected {len(broken)}), weights "
                   f"{'finite' if finite else 'NOT finite'}, {'un' if kept else ''}changed by skipped steps",
                   {"skipped": skipped, "expected": len(broken), "finite": finite, "unchanged": kept})


def roll_back(setting: Setting) -> Outcome:
    """All latents become NaN after 10 steps: training goes back to step 10, and stops when that does not help."""
    cache = smooth_cache(setting.config)
    trainer = make_trainer(setting, cache=cache, amp=False)
    _steps(trainer, 10)
    good = weights_of(trainer, ema=False)
    _poison(cache, slice(None))
    try:
        trainer.train(10 + 4 * MAX_SKIPPED, log_every=MAX_SKIPPED, milestone_every=1000, recorder=None,
                      stop=StopRequest())
        stopped = False
    except InputError:
        stopped = True
    rolled_back, same = trainer.state_dict()["has_rolled_back"], torch.equal(weights_of(trainer, ema=False), good)
    return Outcome(stopped and rolled_back and same, f"{'went' if rolled_back else 'did NOT go'} back, "
                   f"{'stopped' if stopped else 'did NOT stop'}, weights {'as' if same else 'NOT as'} in step 10",
                   {"stopped": stopped, "rolled_back": rolled_back, "same_weights": same})


def resume_to_the_bit(setting: Setting) -> Outcome:
    """20 steps, and 10 + 10 by another trainer from the state in between, give the same weights to the bit."""
    whole, repeated = make_trainer(setting), make_trainer(setting)
    _steps(whole, 10)
    state = whole.state_dict()
    resumed = make_trainer(setting)
    resumed.load_state_dict(state)
    for trainer in (whole, resumed):
        _steps(trainer, 10)
    _steps(repeated, 20)
    expected = weights_of(whole)
    errors = {name: 0.0 if torch.equal(weights_of(trainer), expected) else difference(weights_of(trainer), expected)
              for name, trainer in (("resumed", resumed), ("repeated", repeated))}
    return Outcome(errors["resumed"] == 0, "resumed " + ("equal to the bit" if not errors["resumed"] else
                   f"differs by {errors['resumed']:.2g}") + ", repeated "
                   + ("equal to the bit" if not errors["repeated"] else f"differs by {errors['repeated']:.2g}"), errors)


def _steps(trainer: Trainer, count: int) -> None:
    for _ in range(count):
        trainer.train_step()
