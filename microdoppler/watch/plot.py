"""Plot of a training run: loss, gradient norm, speed, and the metrics of its milestones."""
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from microdoppler.watch.metrics import Metrics, smooth
from microdoppler.watch.run_settings import RunSettings
from microdoppler.watch.sample_findings import MIN_CLASS_GAIN

SAMPLE_CURVES = {"speckle": "speckle contrast", "speckle_of_vae": "speckle contrast after the VAE",
                 "diversity": "diversity", "recognised": "recognised", "copies": "near-copies"}
RIGHT_END = 1.02        # of the steps: the last milestone stands within the frame


def plot(metrics: Metrics, settings: RunSettings) -> Figure:
    """Loss, gradient norm, speed and the milestones' metrics over the training steps; 12 x 9 inches."""
    figure = Figure(figsize=(12, 9), layout="constrained")
    axes = figure.subplot_mosaic([["loss", "loss"], ["grad_norm", "speed"], ["class_gain", "samples"]],
                                 height_ratios=[1.6, 1, 1])
    step, milestones = metrics.training["step"], metrics.milestones
    _curve(axes["loss"], step, metrics.training["loss"])
    axes["loss"].plot(milestones["step"], np.full(len(milestones["step"]), 0.02), "|", color="C2", markersize=12,
                      transform=axes["loss"].get_xaxis_transform(), label="milestone")
    axes["loss"].axhline(settings.zero_output_loss, color="0.4", linestyle="--", linewidth=1, label="outputs zero")
    axes["loss"].set(title="loss", yscale="log")
    _curve(axes["grad_norm"], step, metrics.training["grad_norm"])
    axes["grad_norm"].axhline(settings.max_grad_norm, color="0.4", linestyle="--", linewidth=1, label="clipped above")
    axes["grad_norm"].set(title="gradient norm", yscale="log")
    _curve(axes["speed"], step, metrics.training["images_per_second"])
    axes["speed"].set(title="images per second", ylim=(0, None))
    gain = milestones["class_gain"]
    axes["class_gain"].plot(milestones["step"], gain, "o-", color="C0", markersize=3)
    axes["class_gain"].axhspan(-MIN_CLASS_GAIN, MIN_CLASS_GAIN, color="C3", alpha=0.2,
                               label="users not distinguishable")
    axes["class_gain"].set(title="class gain: rise of the loss when told a wrong user",
                           ylim=(np.nanmin([*gain, -2 * MIN_CLASS_GAIN]), 1.3 * np.nanmax([*gain, 5 * MIN_CLASS_GAIN])))
    for colour, (key, label) in enumerate(SAMPLE_CURVES.items()):
        axes["samples"].plot(milestones["step"], milestones[key], "o-", color=f"C{colour}", markersize=3, label=label)
        right = milestones.get(f"held_out_{key}", np.ones(len(milestones["step"])))
        axes["samples"].plot(milestones["step"], right, "--", color=f"C{colour}", linewidth=1)
    axes["samples"].set(title="samples (dashed: the right value, that of held-out real images)", ylim=(0, None))
    for axis in (axes["loss"], axes["grad_norm"]):
        low, high = axis.get_ylim()
        axis.yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)) if high > 10 * low else MaxNLocator(6),
                       major_formatter="{x:g}", minor_formatter=NullFormatter())
    for axis in axes.values():
        axis.set(xlim=(0, RIGHT_END * max(settings.train_num_steps, metrics.step)), xlabel="step")
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8)
    return figure


def _curve(axis: Axes, step: np.ndarray, values: np.ndarray) -> None:
    """Values (lines,) over step (lines,), raw and smoothed. A red cross at the top marks each NaN or infinite value."""
    bad = ~np.isfinite(values)
    axis.plot(step, np.where(bad, np.nan, values), color="C0", alpha=0.3, linewidth=0.8)
    axis.plot(step, smooth(values), "." if len(step) == 1 else "-", color="C0", linewidth=1.6, label="smoothed")
    if bad.any():
        axis.plot(step[bad], np.full(bad.sum(), 0.97), "rx", transform=axis.get_xaxis_transform(), label="NaN or inf")
