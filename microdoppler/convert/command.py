"""Convert radar recordings to a data set of spectrograms.

    python -m microdoppler.convert --input RECORDINGS --output_dir DATA
"""
from collections import Counter
from pathlib import Path

from groundwork.command_line import quoted
from groundwork.errors import InputError
from groundwork.limits import check_limits, checks_arguments
from microdoppler.convert.conversion import convert
from microdoppler.convert.preview import preview as draw_preview
from microdoppler.convert.processing import Plan, Processing
from microdoppler.convert.sources import find_sources
from microdoppler.figures.report import Table, save_figure
from microdoppler.radar.settings import RadarSettings

PICTURES = (".png", ".pdf", ".svg")


@checks_arguments
def main(input: Path, output_dir: Path, *, radar: RadarSettings = RadarSettings(),
         processing: Processing = Processing(), class_table: Path | None = None, class_pattern: str | None = None,
         preview: Path | None = None, force: bool = False) -> None:
    """Convert radar recordings to a data set of spectrograms. A repeated run writes what is missing.

    Recordings are .dat (Glasgow), .bin (TI DCA1000), .mat, .npy, .npz, .csv, .wav and .txt (Infineon, or a table).
    Facts of the radar that a file does not tell may be options, or lie in a radar.json beside it or above.

    Args:
        input: folder with a folder of recordings per person or class; files called as in the Glasgow data set may lie
            anywhere in it, and their person is their class
        output_dir: gets a folder of images per class, recordings.csv, axes.json and conversion.json
        class_table: a CSV table with the columns path (below the input) and class, if folders do not tell the classes
        class_pattern: a regular expression that finds the class in a recording's path below the input, in its first
            group or in the one called class
        preview: write only this picture: the first recordings of four classes, as they would be converted
        force: write a data set anew whose options or recordings have changed
    """
    check_limits(radar)
    check_limits(processing)
    if preview and preview.suffix.lower() not in PICTURES:
        raise InputError(f"--preview is {preview}; expected a file {', '.join(PICTURES)}")
    sources, rule = find_sources(input, class_table, class_pattern, leave_out=output_dir)
    print(f"recordings: {len(sources)} in {input}; classes from {rule}")
    if preview:
        figure, plan = draw_preview(input, sources, radar, processing)
        save_figure(figure, preview)
        print(f"{describe(plan)}\npreview: {preview}; nothing else was written")
        return
    conversion = convert(input, sources, output_dir, radar, processing, force)
    assert conversion.plan is not None
    print(describe(Plan(**conversion.plan)))
    images: Counter[str] = Counter()
    for entry in conversion.recordings.values():
        images[entry["class"]] += len(entry["images"])
    counts = Counter(entry["class"] for entry in conversion.recordings.values())
    print(Table(("class", "recordings", "images"), [(label, f"{counts[label]}", f"{images[label]}")
                                                    for label in counts]).as_text())
    if short := [path for path, entry in conversion.recordings.items() if not entry["images"]]:
        print(f"note: {len(short)} recordings are shorter than an image: {', '.join(short[:3])}")
    print("next: " + quoted(["python", "-m", "microdoppler.split", "--data_path", str(output_dir)]))


def describe(plan: Plan) -> str:
    """Lines about spectrograms and images."""
    axes = plan.axes
    return (f"spectrogram: {plan.carrier_hz / 1e9:.4g} GHz, {plan.prf_hz:.6g} chirps per second, unambiguous "
            f"within ±{plan.fastest_mps:.3g} m/s; windows of {1000 * plan.window_chirps / plan.prf_hz:.3g} ms every "
            f"{1000 * plan.column_seconds:.3g} ms, {plan.bin_mps:.3g} m/s per bin; clutter removal: {plan.clutter}\n"
            f"images: {axes.window_seconds:.4g} s every {plan.hop_seconds:.4g} s, {axes.lowest_mps:.4g} … "
            f"{axes.highest_mps:.4g} m/s, approaching at the top")
