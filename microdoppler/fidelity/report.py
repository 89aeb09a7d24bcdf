"""The result of the fidelity measurement as tables, text and figures. `report` is the content of fidelity.json."""
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from microdoppler.data.overlap import NEAR_COPY
from microdoppler.figures.fonts import figure_names, plain_text
from microdoppler.figures.report import Picture, Table, Verdict

GAIT = {"cadence_hz": "cadence in Hz", "doppler_spread_mps": "Doppler spread in m/s", "torso_mps": "torso in m/s",
        "torso_variation_mps": "torso's variation in m/s"}
# {metric: its name in the overview}
OVERVIEW = {"recognised": "recognised", "precision": "precision", "recall": "recall", "diversity": "diversity",
            "copies": "near-copies"}
MAX_REAL_COPIES = 0.5       # share of near-copies among held-out real images; from here on, the measure tells nothing
MORE_COPIES = 0.01          # the model copies if its share of near-copies exceeds the real one by more than this
PAIRS_CAPTION = "The synthetic images that are most similar to a training image, above it"
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
                           .replace("? ± ?", "?") for kind in ("synthetic", "real")) for metrics in rows.values()]
    feature_columns = {"KID": kid(), **{name: cells(name, form) for name, form in (
        ("precision", ".2f"), ("recall", ".2f"), ("diversity", ".2f"), ("recognised", ".0%"))}}
    novelty_columns = {"images": cells("num_images", "d"), "distance to the nearest training image":
                       cells("nearest", ".3f"), "near-copies": cells("copies", ".1%")}
    gait_columns = {title: cells(name, ".2f") for name, title in GAIT.items() if name in report["all"]["real"]}
    captions = (
        "Synthetic | real: against held-out real images, and these against each other (one half of the passes against "
        "the other). KID: kernel distance ± standard error, 0 = same distribution. "
        "Diversity: mean distance between a user's images by that between real ones. Recognised: taken for their own "
        "user by a classifier of the training images.",
        "Synthetic | held-out real. Distance (median), by the highest correlation over time and small Doppler shifts: "
        f"0 where near-copies begin, 1 as most images that are none. Near-copies: {_bars(report)}.",
        "Synthetic | held-out real, medians of what is estimated from each picture.")
    return [Table(["synthetic | real", *columns], [[name, *(column[i] for column in columns.values())]
                                                   for i, name in enumerate(rows)], caption)
            for columns, caption in zip((feature_columns, novelty_columns, gait_columns), captions) if columns]


def fidelity_verdict(report: dict, folder: Path | None = None) -> Verdict:
    """Whether the model copies and how many images are recognised, in one line; then what explains it.

    folder: holds overview.png, the result of `overview_figure`; None: no picture.
    """
    synthetic, real = report["all"]["synthetic"], report["all"]["real"]
    novelty, mood = ("Copying cannot be judged", "open") if _looks_copied(real) else (
        "Training images are repeated", "bad") if _is_copying(report) else (
        "No sign of copying" if _is_calibrated(report) else "Copying cannot be judged", "open")
    return Verdict(f"{novelty}; {synthetic['recognised']:.0%} recognised as their user (real: "
                   f"{real['recognised']:.0%}).", mood, explanations(report),
                   Picture(folder / "overview.png", "Synthetic beside held-out real images") if folder else None)


def _looks_copied(real: dict) -> bool:
    """Whether the measure fails: many held-out real images count as near-copies, and they are none."""
    return real["copies"] >= MAX_REAL_COPIES


def _is_copying(report: dict) -> bool:
    return report["all"]["synthetic"]["copies"] > report["all"]["real"]["copies"] + MORE_COPIES


def _is_calibrated(report: dict) -> bool:
    """Whether near-copies were told by known ones. If not, blurred copies were missed."""
    return bool(report.get("copy_bars"))


def _bars(report: dict) -> str:
    """From where on an image counts as a near-copy, in words."""
    if not _is_calibrated(report):
        return f"a correlation of {NEAR_COPY} or more with the image itself, which blurred copies do not reach"
    low, high = (f"{edge(report['copy_bars']):.2f}" for edge in (min, max))
    return (f"a correlation of {low if low == high else f'{low} to {high}, by user,'} or more, between those of known "
            "copies and of images that are none; all are compared as the VAE gives them back")


def sentences(report: dict) -> list[str]:
    """The main results in sentences."""
    synthetic, real = report["all"]["synthetic"], report["all"]["real"]
    return [f"{synthetic['recognised']:.0%} of the synthetic images are recognised as their own user, of held-out real "
            f"images {real['recognised']:.0%}.", *explanations(report)]


def explanations(report: dict) -> list[str]:
    """What stands behind the share of images that are recognised, and whether the model copies, in sentences."""
    synthetic, real = report["all"]["synthetic"], report["all"]["real"]
    said = [f"Users account for {synthetic['separation']:.0%} of the synthetic images' variance in features, and for "
            f"{real['separation']:.0%} of the held-out real images'."]
    said.append(f"Near-copies of training images: {synthetic['copies']:.1%} of the synthetic images, "
                f"{real['copies']:.1%} of held-out real ones: " + (
                    "the measure fails on these data, because held-out real images are no copies."
                    if _looks_copied(real) else "the model repeats its training images."
                    if _is_copying(report) else "no sign of copying." if _is_calibrated(report) else
                    "without a control set, blurred copies are missed. Run generate.py again, which writes one."))
    if any("?" in cell for table in tables(report) for row in table.rows for cell in row[1:]):
        said.append('"?" in a table: too few images or recordings to tell.')
    users = len(report["users"])
    if 0 < synthetic["kid_users"] < users:
        said.append(f"KID over all is of {synthetic['kid_users']} of {users} users: the others have too few images.")
    cadences = [(metrics["synthetic"]["cadence_hz"], metrics["real"]["cadence_hz"])
                for metrics in report["users"].values() if "cadence_hz" in metrics["real"]]
    errors = [abs(generated / true - 1) for generated, true in cadences if np.isfinite([generated, true]).all()]
    if errors:
        said.append(f"Cadence: users' medians differ from the real ones by {np.median(errors):.1%} (median) and "
                    f"{max(errors):.1%} (at most).")
    if "cadence_hz" not in real:
        said.append("No figures of a walk: " + (
            f"a cadence is found in {real['cadence_share']:.0%} of the held-out real images, in images of walking "
            "persons in nearly all. If persons walk here, give --window_seconds and --velocity_range_mps."
            if "cadence_share" in real else "simulation.json says that nobody walks in these data."))
    return said


def overview_figure(report: dict) -> Figure:
    """The metrics over all users that are shares or ratios: a dot for the synthetic images, and a line for the real
    ones to compare it with."""
    figure = Figure(figsize=(5.4, 2.5), layout="constrained")
    axis = figure.subplots()
    for kind, marker in (("real", "|"), ("synthetic", "o")):
        values = [report["all"][kind][name] for name in OVERVIEW]
        axis.plot(values, range(len(OVERVIEW)), marker, color=COLOURS[kind], markersize=9, markeredgewidth=2.5,
                  label="held-out real" if kind == "real" else kind)
    axis.set_yticks(range(len(OVERVIEW)), list(OVERVIEW.values()), fontsize=9)
    axis.set(ylim=(len(OVERVIEW) - 0.5, -0.5), xlim=(-0.03, max(1.05, axis.get_xlim()[1])))
    axis.tick_params(axis="x", labelsize=9)
    axis.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    return figure


def novelty_figure(nearest: dict) -> Figure:
    """Histograms of the distance from the most similar training image.

    nearest: {"real" or "synthetic": NearestTraining}.
    """
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axis = figure.subplots()
    distances = {kind: nearest[kind].distance.clamp(-1, 3).numpy() for kind in ("real", "synthetic")}
    for kind, values in distances.items():
        axis.hist(values, bins=60, range=(-1, 3), weights=np.full(len(values), 100 / len(values)), alpha=0.6,
                  color=COLOURS[kind], label=f"{kind}{' (held-out)' if kind == 'real' else ''}")
    axis.axvline(0, color="black", linestyle="--", linewidth=1, label="near-copies to the left")
    axis.set(xlabel="distance from the most similar training image of the user (1: usual of images that are no copies)",
             ylabel="% of images", xlim=(-1, 3))
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
    shown = [plain_text(name) for name in figure_names(names).values()]
    figure.axes[-1].set_xticks(range(len(user_labels)), [shown[label] for label in user_labels], fontsize=7,
                               rotation=90 if len(user_labels) > 12 else 0)
    return figure
