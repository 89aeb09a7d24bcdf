"""The result of the fidelity measurement as tables, text and figures. `report` is the content of fidelity.json."""
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from microdoppler.data.overlap import NEAR_COPY
from microdoppler.figures.report import Table, plain_text

GAIT = {"cadence_hz": "cadence in Hz", "doppler_spread_mps": "Doppler spread in m/s", "torso_mps": "torso in m/s",
        "torso_variation_mps": "torso's variation in m/s"}
COLOURS = {"real": "tab:gray", "synthetic": "tab:orange"}


def tables(report: dict) -> list[Table]:
    """Tables of features, novelty and (for walking persons) gait.

    Each has a row per user and one for all, and cells "synthetic | real".
    """
    rows = {**{report["names"][user]: metrics for user, metrics in report["users"].items()}, "all": report["all"]}

    def cells(name: str, form: str) -> list[str]:
        return [f"{metrics['synthetic'][name]:{form}} | {metrics['real'][name]:{form}}".replace("nan", "?")
                for metrics in rows.values()]

    def kid() -> list[str]:
        return [" | ".join(f"{metrics[kind]['kid']:.2f} ± {metrics[kind]['kid_error']:.2f}".replace("nan", "?")
                           for kind in ("synthetic", "real")) for metrics in rows.values()]
    feature_columns = {"KID": kid(), **{name: cells(name, form) for name, form in (
        ("precision", ".2f"), ("recall", ".2f"), ("diversity", ".2f"), ("recognised", ".0%"))}}
    novelty_columns = {"images": cells("num_images", "d"), "distance to the nearest training image":
                       cells("nearest", ".3f"), "near-copies": cells("copies", ".1%")}
    gait_columns = {title: cells(name, ".2f") for name, title in GAIT.items() if name in report["all"]["real"]}
    captions = (
        "Synthetic | real: against held-out real images, and these against each other (one half of the passes against "
        "the other). KID: kernel distance ± standard error, 0 = same distribution. ?: too few images to tell. "
        "Diversity: mean distance between a user's images by that between real ones. Recognised: taken for their own "
        "user by a ResNet18 of the training images.",
        "Synthetic | held-out real. Distance: 1 less the highest correlation over time and small Doppler shifts "
        f"(median); near-copies: a correlation of {NEAR_COPY} or more.",
        "Synthetic | held-out real, medians of what is estimated from each picture.")
    return [Table(["synthetic | real", *columns], [[name, *(column[i] for column in columns.values())]
                                                   for i, name in enumerate(rows)], caption)
            for columns, caption in zip((feature_columns, novelty_columns, gait_columns), captions) if columns]


def sentences(report: dict) -> list[str]:
    """The main results in sentences."""
    synthetic, real = report["all"]["synthetic"], report["all"]["real"]
    said = [f"Users account for {synthetic['separation']:.0%} of the synthetic images' variance in features, and for "
            f"{real['separation']:.0%} of the held-out real images'.",
            f"{synthetic['recognised']:.0%} of the synthetic images are recognised as their own user, of held-out real "
            f"images {real['recognised']:.0%}."]
    if synthetic["kid_users"] < (users := len(report["users"])):
        said.append(f"KID over all is of {synthetic['kid_users']} of {users} users: the others have too few images.")
    copies = (f"Near-copies of training images: {synthetic['copies']:.1%} of the synthetic images, "
            f"{real['copies']:.1%} of held-out real ones")
    said.append(copies + (": the model repeats its training images." if synthetic["copies"] > real["copies"] + 0.01
                          else ": no sign of copying."))
    cadences = [(metrics["synthetic"]["cadence_hz"], metrics["real"]["cadence_hz"])
                for metrics in report["users"].values() if "cadence_hz" in metrics["real"]]
    errors = [abs(generated / true - 1) for generated, true in cadences if np.isfinite([generated, true]).all()]
    if errors:
        said.append(f"Cadence: users' medians differ from the real ones by {np.median(errors):.1%} (median) and "
                    f"{max(errors):.1%} (at most).")
    return said


def novelty_figure(nearest: dict) -> Figure:
    """Histograms of the correlation with the most similar training image.

    nearest: {"real" or "synthetic": NearestTraining}.
    """
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axis = figure.subplots()
    for kind in ("real", "synthetic"):
        values = nearest[kind].correlation.numpy()
        axis.hist(values, bins=50, range=(0, 1), weights=np.full(len(values), 100 / len(values)), alpha=0.6,
                  color=COLOURS[kind], label=f"{kind}{' (held-out)' if kind == 'real' else ''}")
    axis.axvline(NEAR_COPY, color="black", linestyle="--", linewidth=1, label="near-copies from here")
    axis.set(xlabel="correlation with the most similar training image of the user", ylabel="% of images", xlim=(0, 1))
    axis.legend(fontsize=8)
    return figure


def gait_figure(gait: dict[str, dict[str, np.ndarray]], labels: dict[str, Tensor], names: dict[int, str]) -> Figure:
    """One panel per quantity of the walk, and in it for each user a dot per image and a bar at the median.

    gait: {"real" or "synthetic": result of `describe_gait`}; labels: {"real" or "synthetic": (n,) int64}; names: {user
    number: name}.
    """
    user_labels = labels["real"].unique().tolist()
    figure = Figure(figsize=(max(8, 0.55 * len(user_labels) + 2), 9), layout="constrained")
    rng = np.random.default_rng(0)      # scatters the dots sideways
    for axis, (name, title) in zip(figure.subplots(len(GAIT), 1, sharex=True), GAIT.items()):
        for offset, kind in ((-0.2, "real"), (0.2, "synthetic")):
            for place, label in enumerate(user_labels):
                values = gait[kind][name][(labels[kind] == label).numpy()]
                values = values[np.isfinite(values)]
                axis.scatter(place + offset + rng.uniform(-0.12, 0.12, len(values)), values, s=3, alpha=0.5,
                             color=COLOURS[kind], label=kind if place == 0 else None)
                if len(values):
                    axis.hlines(np.median(values), place + offset - 0.15, place + offset + 0.15, color="black")
        axis.set_ylabel(title, fontsize=8)
        axis.grid(axis="y", alpha=0.25)
    figure.axes[0].legend(fontsize=8, markerscale=3)
    shown = [plain_text(list(names.values())[label]) for label in user_labels]
    figure.axes[-1].set_xticks(range(len(user_labels)), shown, fontsize=7, rotation=90 if len(user_labels) > 12 else 0)
    return figure
