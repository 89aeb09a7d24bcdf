"""Diagnosis of the samples of a training run: what is wrong with them, and what to do about it.

`latest` holds the figures of the milestones that are judged: {key of MILESTONE_KEYS: value}, without those that are
unknown.
"""
import math

import numpy as np

from microdoppler.watch.metrics import Metrics
from microdoppler.watch.run_settings import Finding, RunSettings

MIN_CLASS_GAIN = 0.003              # measured 0.004 after 1000 steps at lr 1e-4, 0.010 after 3000
# Speckle contrast, of samples and of what the VAE gives back; 1 is right. Of 16 real images of other passes: 0.93 to
# 1.04; after a blur of 0.5 px: 0.79
BLURRED_BELOW, NOISY_ABOVE = 0.9, 1.1
MAX_SPECTRAL_DB = 1.5               # above the distance of held-out real images, which have 0.2 to 0.6 dB
MIN_RECOGNISED = 0.5                # share of samples; images that look like another person harm a classifier
COLLAPSED_BELOW = 0.5               # diversity, by that of held-out real images (without them: of training images)
MAX_COPIES = 0.1                    # share of near-copies, above that of held-out real images (without them: above 0)
ENOUGH_TIMESTEPS = 20               # sampling_timesteps from which on more hardly matter: docs/log.md, 2026-11-24


def how_many(count: float, images: str = "samples") -> str:
    """The number of images that figures are of, and the largest standard error of a share of them, as text; "" if the
    number is unknown, as in runs of earlier versions. images: what they are called."""
    return f"{count:.0f} {images}, ± {50 / count ** 0.5:.0f} points in a share" if count > 0 else ""


def find_in_samples(latest: dict[str, float], metrics: Metrics, settings: RunSettings) -> list[Finding]:
    """The problems of the samples; metrics: of the whole run, to find a milestone that was better."""
    found = (_find_users_not_distinguishable(latest, settings), _find_wrong_speckle(latest, settings),
             _find_wrong_spectra(latest), _find_collapse(latest, metrics, settings), _find_copies(latest, metrics))
    return [finding for finding in found if finding is not None]


def find_blurring_vae(metrics: Metrics) -> Finding | None:
    """Whether the VAE blurs: the speckle contrast of training images after the VAE is the same at every milestone."""
    kept = metrics.milestones["speckle_of_vae"]
    known = kept[np.isfinite(kept)]
    if not len(known) or known[-1] >= BLURRED_BELOW:
        return None
    return Finding("the VAE blurs", f"training images have {known[-1]:.2f} times their own speckle contrast after "
                   f"the VAE; expected {BLURRED_BELOW} or more",
                   "the detail that the VAE loses is in no sample, however long the diffusion model is trained",
                   "look at vae_reconstruction.png (python test_vae_range.py); make its decoder sharp (python -m "
                   "vae.train --finetune_decoder), which keeps latents and diffusion model; or train a VAE for longer "
                   "(--num_steps) or a wider one (--ch), or give another one (--vae_path); the price: a new VAE needs "
                   "new latents, a new training and new synthetic images")


def _find_users_not_distinguishable(latest: dict[str, float], settings: RunSettings) -> Finding | None:
    gain, recognised = latest.get("class_gain", math.inf), latest.get("recognised", 1.0)
    expected = min(MIN_RECOGNISED, latest.get("held_out_recognised", 1.0))
    if settings.num_users < 2 or (gain > MIN_CLASS_GAIN and recognised >= expected):
        return None
    seen, meaning = [], "the network makes little use of the user that it is told"
    if gain <= MIN_CLASS_GAIN:
        seen.append(f"told a wrong user, the network's loss rises by {gain:.2%}, expected more than "
                    f"{MIN_CLASS_GAIN:.1%}")
    if recognised < expected:
        seen.append(f"{recognised:.0%} of the samples are taken for their own user by a classifier of real images, "
                    f"expected {expected:.0%} or more{_of_held_out(latest, 'recognised', '.0%')}")
        meaning = "samples look like another person than they are labelled: for a classifier, wrong labels"
    remedies = _train_longer(latest, settings)
    if settings.cond_drop_prob > settings.usual_cond_drop_prob:
        remedies.append(f"train a new model with cond_drop_prob {settings.usual_cond_drop_prob:g}, the default of this "
                        f"preset (now {settings.cond_drop_prob:g})")
    if settings.min_loss_weight < 1:
        remedies.append(f"train a new model with min_loss_weight 1 (now {settings.min_loss_weight:g})")
    if settings.more_guidance and not _is_overguided(latest):
        remedies.append(f"until then generate with {settings.more_guidance}")
    remedies.append("check that each image lies in the folder of its user")
    return Finding("users not distinguishable", "; ".join(seen), meaning, "; ".join(remedies))


def _of_held_out(latest: dict[str, float], name: str, form: str) -> str:
    """", held-out real images <value>", or "" where it is unknown."""
    return f", held-out real images {latest[f'held_out_{name}']:{form}}" if f"held_out_{name}" in latest else ""


def _train_longer(latest: dict[str, float], settings: RunSettings) -> list[str]:
    """The remedy "train longer"; [] where samples are already copies of training images, which it makes worse."""
    if _is_memorising(latest):
        return []
    return [f"train longer (train_num_steps, now {settings.train_num_steps})"]


def _is_memorising(latest: dict[str, float]) -> bool:
    """Whether more of the samples are near-copies than of held-out real images, which are none."""
    return latest.get("copies", 0.0) > _most_copies(latest)


def _most_copies(latest: dict[str, float]) -> float:
    """The largest share of near-copies that is no sign of memorising."""
    return latest.get("held_out_copies", 0.0) + MAX_COPIES


def _least_diversity(latest: dict[str, float]) -> float:
    """The diversity below which samples are collapsing."""
    return COLLAPSED_BELOW * latest.get("held_out_diversity", 1.0)


def _is_overguided(latest: dict[str, float]) -> bool:
    """Whether the samples show signs of too much guidance: exaggerated contrast or little diversity."""
    return _speckle_of_diffusion(latest) > NOISY_ABOVE or latest.get("diversity", math.inf) < _least_diversity(latest)


def _speckle_of_diffusion(latest: dict[str, float]) -> float:
    """The speckle contrast of samples by that of training images after the VAE: what the VAE changes is not in it."""
    return latest.get("speckle", 1.0) / (latest.get("speckle_of_vae", 1.0) or math.nan)     # 0: all images are flat


def _find_wrong_speckle(latest: dict[str, float], settings: RunSettings) -> Finding | None:
    """Whether the diffusion model blurs; for the VAE see `find_blurring_vae`."""
    value = _speckle_of_diffusion(latest)
    seen = (f"samples have {value:.2f} times the speckle contrast of training images that went through the VAE; "
            "expected about 1")
    longer = _train_longer(latest, settings)
    steps = [f"generate with sampling_timesteps {ENOUGH_TIMESTEPS} (now {settings.sampling_timesteps})"] if (
        settings.sampler != "ddpm" and settings.sampling_timesteps < ENOUGH_TIMESTEPS) else []
    if value < BLURRED_BELOW:
        return Finding("blurred samples", seen, "fine detail is not learnt yet, or averaged away",
                       "; ".join([*longer, *steps]) or "train a new model with a larger one (dim)")
    if value > NOISY_ABOVE:
        less = [settings.less_guidance] if settings.less_guidance else []
        return Finding("noisy samples", seen, "noise is left in the samples, or guidance exaggerates",
                       "; ".join([*steps, *less, *longer,
                                  "if it stays: python test_vae_range.py and standardize_latents = True"]))
    return None


def _find_wrong_spectra(latest: dict[str, float]) -> Finding | None:
    """Whether the samples have the speckle contrast of real images, and yet another texture, such as a grid."""
    if not BLURRED_BELOW <= latest.get("speckle", 0.0) <= NOISY_ABOVE:
        return None         # the blur or the noise explains the spectra
    far = [f"their {name} spectrum lies {latest[key]:.1f} dB from that of training images, expected at most {most:.1f} "
           f"dB{_of_held_out(latest, key, '.1f')}" for name, key in (("radial", "radial_db"), ("Doppler", "doppler_db"))
           if latest.get(key, 0.0) > (most := latest.get(f"held_out_{key}", 0.0) + MAX_SPECTRAL_DB)]
    return Finding("wrong texture", "; ".join(far), "a network tells such images from real ones by their texture alone",
                   "python test_vae_range.py shows whether the spectra of reconstructions are as far off: if so, train "
                   "another VAE; if not, train longer") if far else None


def _find_collapse(latest: dict[str, float], metrics: Metrics, settings: RunSettings) -> Finding | None:
    diversity, least = latest.get("diversity", math.inf), _least_diversity(latest)
    if diversity >= least:
        return None
    less = [f"lower the guidance: {settings.less_guidance}"] if settings.less_guidance else []
    earlier = _use_an_earlier_milestone(metrics, metrics.milestones["diversity"] >= least)
    return Finding("collapsing", f"a user's samples lie {diversity:.2f} times as far from each other as training "
                   f"images do; expected at least {least:.2f}{_of_held_out(latest, 'diversity', '.2f')}",
                   "the same few pictures are generated again and again",
                   "; ".join([*less, *(earlier or _train_longer(latest, settings))]))


def _find_copies(latest: dict[str, float], metrics: Metrics) -> Finding | None:
    if not _is_memorising(latest):
        return None
    most = _most_copies(latest)
    earlier = _use_an_earlier_milestone(metrics, metrics.milestones["copies"] <= most)
    return Finding("memorising", f"{latest['copies']:.0%} of the samples are near-copies of training images, shifted "
                   f"in time or not; expected at most {most:.0%}{_of_held_out(latest, 'copies', '.0%')}",
                   "training images are memorised: copies add nothing for the classifier",
                   "; ".join([*earlier, "drop copies with classify.py --select", "train a new model for fewer steps, "
                              "with more cuts_per_hop, or smaller (dim)", "use more images per user "
                              "(images_per_user_train); the price: a new split, VAE and training"]))


def _use_an_earlier_milestone(metrics: Metrics, is_good: np.ndarray) -> list[str]:
    """The remedy that names the last milestone before those of the median that is_good (milestones,); [] if none is."""
    good = metrics.milestones["milestone"][:-3][is_good[:-3]]
    return [f"generate from an earlier milestone, such as {good[-1]:.0f}"] if len(good) else []
