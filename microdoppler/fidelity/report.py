"""The result of the fidelity measurement as tables, text and figures. `report` is the content of fidelity.json."""
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from microdoppler.data.overlap import NEAR_COPY
from microdoppler.figures.fonts import figure_names, plain_text
from microdoppler.figures.report import Picture, Table, Verdict

# {metric: (its name, how its value is written)}
FEATURES = {"kid": ("KID", ".2f"), "precision": ("precision", ".2f"), "recall": ("recall", ".2f"),
            "diversity": ("diversity", ".2f"), "recognised": ("recognised", ".0%"),
            "speckle": ("speckle contrast", ".2f"), "radial": ("radial spectrum in dB", ".2f"),
            "doppler": ("Doppler spectrum in dB", ".2f")}
TOLD = {"two_sample": ("two-sample AUC", ".2f")}       # of all users together
NOVELTY = {"copies": ("near-copies", ".1%"), "nearest": ("distance to the nearest training image", ".3f")}
GAIT = {"cadence_hz": "cadence in Hz", "doppler_spread_mps": "Doppler spread in m/s", "torso_mps": "torso in m/s",
        "torso_variation_mps": "torso's variation in m/s"}
METRICS = FEATURES | TOLD | NOVELTY | {name: (title, ".2f") for name, title in GAIT.items()}
ERRORS = {"kid": "kid_error", "two_sample": "two_sample_spread"}        # {metric: what stands behind it with a ±}
OVERVIEW = ("recognised", "precision", "recall", "diversity", "speckle", "two_sample", "copies")    # fit on one axis
MAX_REAL_COPIES = 0.5       # share of near-copies among held-out real images; from here on, the measure tells nothing
MORE_COPIES = 0.01          # the model copies if its share of near-copies exceeds the real one by more than this
PAIRS_CAPTION = "The synthetic images that are most similar to a training image, above it"
COLOURS = {"real": "tab:gray", "synthetic": "tab:orange"}
OUTSIDE = "tab:red"
MARKS = {"below": "↓", "above": "↑"}        # behind a synthetic value outside its interval


def interval_of(part: dict[str, Any], name: str) -> tuple[float, float]:
    """The interval of real images of a metric, NaN where it is unknown, as in a fidelity.json of an older version."""
    low, high = part.get("interval", {}).get(name, (np.nan, np.nan))
    return low, high


def place(part: dict[str, Any], name: str) -> str:
    """Where the synthetic value of a metric lies: "within" the interval of real images, "below" or "above" it; "?"
    where value or interval is unknown. part: "all", or a user's entry of "users"."""
    value, (low, high) = part["synthetic"][name], interval_of(part, name)
    if not np.isfinite([value, low, high]).all():
        return "?"
    return "below" if value < low else "above" if value > high else "within"


def tables(report: dict) -> list[Table]:
    """The table of all users together; then, if the report has users, those of features, novelty and (for walking
    persons) gait, with a row per user and cells "synthetic | real"."""
    users = {report["names"][user]: metrics for user, metrics in report["users"].items()}
    captions = (
        "Synthetic | held-out real. ↓ and ↑: below or above the interval of this user's real images. Diversity: mean "
        "distance between a user's images by that between real ones. Recognised: taken for their own user by a "
        "classifier of the training images. Speckle contrast: local standard deviation by local mean, by that of real "
        "images. Spectra: distance from those of real images.",
        "Synthetic | held-out real. Distance (median), by the highest correlation over time and small Doppler shifts: "
        f"0 where near-copies begin, 1 as most images that are none. Near-copies: {_bars(report)}.",
        "Synthetic | held-out real, medians of what is estimated from each picture.")
    parts = (FEATURES, {"num_images": ("images", "d"), **NOVELTY},
             {name: METRICS[name] for name in GAIT if name in report["all"]["real"]})
    return [_overall_table(report["all"]), *(
        Table(["synthetic | real", *(title for title, _ in part.values())],
              [[user, *(_cell(metrics, name, form) for name, (_, form) in part.items())]
               for user, metrics in users.items()], caption)
        for part, caption in zip(parts, captions) if part and users)]


def _overall_table(overall: dict[str, Any]) -> Table:
    """A row per metric: the mean over users of the synthetic and of the real images."""
    rows = []
    for name, (title, form) in METRICS.items():
        if name in overall["real"]:
            low, high = interval_of(overall, name)
            interval = f"{low:{form}} … {high:{form}}" if np.isfinite(low) else "?"
            values = [_unknown(_with_error(overall[kind], name, form)) for kind in ("synthetic", "real")]
            rows.append([title, *values, interval, place(overall, name)])
    counts = [str(overall[kind]["num_images"]) for kind in ("synthetic", "real")]
    return Table(["mean over users", "synthetic", "real", "interval of real", "synthetic lies"],
                 [*rows, ["images", *counts, "", ""]],
                 "Real: held-out images, one half of their passes against the other half, mean of many divisions at "
                 "random; interval: the middle 95 % of these, where a perfect generator would lie. KID: kernel "
                 "distance ± standard error, 0 = same distribution. Diversity, speckle contrast: 1 = as real images. "
                 "Two-sample AUC ± standard deviation over folds: how well a small ResNet that is trained for it tells "
                 "the images from held-out real ones, 0.5 = not at all, 1 = always; real: training images.")


def _with_error(values: dict[str, Any], name: str, form: str) -> str:
    """A value as text, with its error if it has one; form: of both."""
    error = f" ± {values[ERRORS[name]]:{form}}" if ERRORS.get(name) in values else ""
    return f"{values[name]:{form}}{error}"


def _cell(metrics: dict[str, Any], name: str, form: str) -> str:
    """"synthetic | real" of a user's metric, with a mark if the synthetic value lies outside; form: of its values."""
    values = [_unknown(f"{metrics[kind][name]:{form}}") for kind in ("synthetic", "real")]
    return f"{values[0]}{MARKS.get(place(metrics, name), '')} | {values[1]}"


def _unknown(cell: str) -> str:
    """The text of a cell, with "?" for NaN, and one for a value whose error is unknown, too."""
    return cell.replace("nan", "?").replace("? ± ?", "?").replace("?%", "?")


def fidelity_verdict(report: dict, folder: Path | None = None) -> Verdict:
    """Whether the model copies and how many images are recognised, in one line; then what explains it.

    folder: holds overview.png, the result of `overview_figure`; None: no picture.
    """
    overall = report["all"]
    real = overall["real"]
    novelty, mood = ("Copying cannot be judged", "open") if _looks_copied(real) else (
        "Training images are repeated", "bad") if _is_copying(report) else (
        "No sign of copying" if _is_calibrated(report) else "Copying cannot be judged", "open")
    return Verdict(f"{novelty}; {overall['synthetic']['recognised']:.0%} recognised as their user (real: "
                   f"{_with_interval(overall, 'recognised')}).", mood, explanations(report),
                   Picture(folder / "overview.png", "Synthetic beside held-out real images; bars: the interval of real "
                           "images") if folder else None)


def _with_interval(overall: dict[str, Any], name: str) -> str:
    """A metric of the real images with its interval, as "95%, 91% to 98%"."""
    form = METRICS[name][1]
    low, high = interval_of(overall, name)
    return f"{overall['real'][name]:{form}}" + (f", {low:{form}} to {high:{form}}" if np.isfinite(low) else "")


def _looks_copied(real: dict) -> bool:
    """Whether the measure fails: many held-out real images count as near-copies, and they are none."""
    return real["copies"] >= MAX_REAL_COPIES


def _is_copying(report: dict) -> bool:
    return report["all"]["synthetic"]["copies"] > report["all"]["real"]["copies"] + MORE_COPIES


def _is_calibrated(report: dict) -> bool:
    """Whether near-copies were told by known ones. If not, blurred copies were missed."""
    return bool(report.get("copy_bars"))


def near_copy_bars(report: dict) -> str:
    """The correlations from which on an image counts as a near-copy, in words. report: with "copy_bars" as `measure`
    returns them."""
    if not _is_calibrated(report):
        return str(NEAR_COPY)
    low, high = (f"{edge(report['copy_bars']):.2f}" for edge in (min, max))
    return low if low == high else f"{low} to {high}, by user,"


def _bars(report: dict) -> str:
    """From where on an image counts as a near-copy, and why there."""
    return f"a correlation of {near_copy_bars(report)} or more" + (
        ", between those of known copies and of images that are none; all are compared as the VAE gives them back"
        if _is_calibrated(report) else " with the image itself, which blurred copies do not reach")


def sentences(report: dict) -> list[str]:
    """The main results in sentences."""
    overall = report["all"]
    return [f"{overall['synthetic']['recognised']:.0%} of the synthetic images are recognised as their own user, of "
            f"held-out real images {_with_interval(overall, 'recognised')}.", *explanations(report)]


def explanations(report: dict) -> list[str]:
    """What stands behind the share of images that are recognised, and whether the model copies, in sentences."""
    synthetic, real = report["all"]["synthetic"], report["all"]["real"]
    said = _beside_real_images(report["all"])
    said.append(f"Users account for {synthetic['separation']:.0%} of the synthetic images' variance in features, and "
                f"for {real['separation']:.0%} of the held-out real images'.")
    said.append(f"Near-copies of training images: {synthetic['copies']:.1%} of the synthetic images, "
                f"{real['copies']:.1%} of held-out real ones: " + (
                    "the measure fails on these data, because held-out real images are no copies."
                    if _looks_copied(real) else "the model repeats its training images."
                    if _is_copying(report) else "no sign of copying." if _is_calibrated(report) else
                    "without a control set, blurred copies are missed. Run generate.py again, which writes one."))
    if "trts" in report:
        said.append(f"Trained on held-out real images, tested on synthetic ones (TRTS): a classifier that never saw a "
                    f"training image recognises {report['trts']['synthetic']:.0%} of the synthetic images, and "
                    f"{report['trts']['training']:.0%} of the real training images.")
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
    said.append("The real images are the test images: constants that are chosen by these figures make the result of "
                "classify.py too good. python -m microdoppler.choose chooses them on validation images.")
    return said


def _beside_real_images(overall: dict[str, Any]) -> list[str]:
    """Which metrics lie within the interval of real images, and which do not, in sentences."""
    names = {where: [METRICS[name][0] for name in METRICS if name in overall["real"] and place(overall, name) == where]
             for where in ("within", "below", "above")}
    parts = [f"{where} it: {', '.join(own)}" for where, own in names.items() if own and where != "within"]
    total = sum(map(len, names.values()))
    if not total:
        return []
    return [f"{len(names['within'])} of {total} figures lie where those of a perfect generator would, within the "
            f"interval of real images{''.join(f'; {part}' for part in parts)}."]


def overview_figure(report: dict) -> Figure:
    """The metrics over all users that are shares or ratios: a bar over the interval of real images, with a line at
    their value, and a dot for the synthetic images, red if it lies outside."""
    figure = Figure(figsize=(5.4, 2.7), layout="constrained")
    axis = figure.subplots()
    overall: dict[str, Any] = report["all"]
    labelled: set[str] = set()
    shown = [name for name in OVERVIEW if name in overall["real"]]
    for row, name in enumerate(shown):
        if np.isfinite(interval_of(overall, name)).all():
            axis.plot(interval_of(overall, name), [row, row], color=COLOURS["real"], alpha=0.35, linewidth=8,
                      solid_capstyle="butt", label=_once("interval of real images", labelled))
        axis.plot(overall["real"][name], row, "|", color=COLOURS["real"], markersize=11, markeredgewidth=2.5,
                  label=_once("held-out real", labelled))
        is_outside = place(overall, name) in MARKS
        axis.plot(overall["synthetic"][name], row, "o", color=OUTSIDE if is_outside else COLOURS["synthetic"],
                  markersize=8, label=_once("synthetic, outside" if is_outside else "synthetic", labelled))
    axis.set_yticks(range(len(shown)), [METRICS[name][0] for name in shown], fontsize=9)
    axis.set(ylim=(len(shown) - 0.5, -0.5), xlim=(min(-0.03, axis.get_xlim()[0]), max(1.05, axis.get_xlim()[1])))
    axis.tick_params(axis="x", labelsize=9)
    axis.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    return figure


def _once(label: str, labelled: set[str]) -> str | None:
    """The label the first time, then None: a legend names each kind of mark once."""
    is_new = label not in labelled
    labelled.add(label)
    return label if is_new else None


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
