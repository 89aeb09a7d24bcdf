"""Recordings of every format go the whole way; a repeated run changes nothing; the simulator's IQ gives its images."""
import csv
import json
import runpy
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from radar_signals import CARRIER_HZ, PRF_HZ, chirps, slow_time, write_all_formats, write_glasgow

from groundwork.command_line import run
from groundwork.errors import InputError
from groundwork.images import load_image
from groundwork.limits import to_plain
from groundwork.preparation import Preparation
from microdoppler.convert.command import main
from microdoppler.convert.preview import draw_ranges, preview
from microdoppler.convert.processing import PROCESSING_VERSION, Processing, Spectrogram, make_plan
from microdoppler.convert.recording import Recording
from microdoppler.convert.sources import find_sources
from microdoppler.data.split_file import SplitOptions, open_split
from microdoppler.figures.axes import axes_of_data, known_axes
from microdoppler.radar.settings import RadarSettings
from microdoppler.simulate.dataset import KINDS, convert_command, simulate_dataset
from train_latent_cfg import PRESETS

RADAR = RadarSettings(carrier_hz=CARRIER_HZ, prf_hz=PRF_HZ)
QUICK = Processing(window_seconds=0.4, hop_seconds=0.1, image_size=32, channels=1)


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_walkers(folder, speeds, seconds=1.5):
    """A recording per speed, in a folder per speed."""
    for number, speed in enumerate(speeds, start=1):
        (folder / f"ID_{number}").mkdir(parents=True)
        noise = np.random.default_rng(number).standard_normal((round(seconds * PRF_HZ), 2)) @ [1, 1j]
        np.save(folder / f"ID_{number}" / "walk1.npy", slow_time(speed, seconds) + 0.01 * noise)


# ------------------------------------------------------------------------------------------- the whole way

def test_a_recording_of_each_format_becomes_a_data_set_that_the_split_reads(tmp_path, capsys):
    """The point shows at its speed in the image files, by the axes that axes.json tells."""
    given = write_all_formats(tmp_path / "in", speed_mps=1.5, seconds=1.6)
    for name, settings in given.items():
        data, options = tmp_path / name, QUICK
        if name == "infineon":
            options = replace(QUICK, nfft=200)
        main(tmp_path / "in" / name, data, radar=RadarSettings(**settings), processing=options)
        files = sorted(data.glob("walker/*.png"))
        axes = known_axes(data, 0.0, (0.0, 0.0), files[0], Preparation())
        assert axes.window_seconds == pytest.approx(0.4, abs=0.03), name
        image = load_image(files[-1], 32, channels=1)[:, 16, 0].astype(int)
        speed = axes.highest_mps - (image.argmax() + 0.5) / 32 * (axes.highest_mps - axes.lowest_mps)
        assert speed == pytest.approx(1.5, abs=0.2), name
        rows = list(csv.DictReader((data / "recordings.csv").open()))
        assert [(row["path"], row["recording"].split("/")[0], row["number"]) for row in rows] == [
            (f"walker/{files[0].stem[:-2]}_{number}.png", "walker", f"{number}") for number in range(1, len(files) + 1)]
        assert f"{len(files)}\nnext: python -m microdoppler.split --data_path {data}" in capsys.readouterr().out
        opened = open_split(tmp_path / name / "cache" / "split.json", data, SplitOptions(images_per_user_train=4))
        assert "recordings: 1 per user, from recordings.csv" in "\n".join(opened.lines)
    assert len(given) == 9


@pytest.mark.parametrize("unit", [2.0 ** -100, 2.0 ** -40, 2.0 ** 100])
def test_the_unit_of_the_samples_does_not_matter(tmp_path, unit):
    """Counts, or the volts that a simulated antenna receives. A power of two changes no mantissa."""
    for folder, gain in (("in", 1.0), ("scaled", unit)):
        write_walkers(tmp_path / folder, [1.0])
        path = tmp_path / folder / "ID_1" / "walk1.npy"
        np.save(path, gain * np.load(path))
        main(tmp_path / folder, tmp_path / f"{folder}_images", radar=RADAR, processing=QUICK)
    images, scaled = (contents(tmp_path / name / "ID_1") for name in ("in_images", "scaled_images"))
    assert images == scaled and len(images) > 5


@pytest.mark.parametrize("kind, channels", [("gait", 3), ("drone", 1), ("gesture", 3)])
def test_the_simulators_recordings_become_its_own_pictures(tmp_path, monkeypatch, kind, channels):
    """Simulate, once to images and once to IQ; the command that converts the IQ gives the same files, byte for byte."""
    own, iq = tmp_path / "own", tmp_path / "iq"
    simulate_dataset(own, 1, 3, 48, seed=5, kind=kind, channels=channels)
    simulate_dataset(iq, 1, 3, 48, seed=5, kind=kind, channels=channels, format="npy")
    assert not (iq / "axes.json").exists() and not (iq / "recordings.csv").exists()
    words = shlex.split(convert_command(iq, KINDS[kind], 48, channels))
    assert words[:3] == ["python", "-m", "microdoppler.convert"]
    monkeypatch.setattr(sys, "argv", words[2:])
    run(main)
    for number, row in enumerate(csv.DictReader((own / "recordings.csv").open()), start=1):
        folder, suffix = row["path"].split("/")[0], Path(row["path"]).suffix
        converted = tmp_path / "iq_images" / folder / f"{folder.replace('ID_', 'ID')}_case1_1_{number}{suffix}"
        assert converted.read_bytes() == (own / row["path"]).read_bytes()
    assert axes_of_data(tmp_path / "iq_images") == axes_of_data(own)


def test_preview_writes_its_picture_only(tmp_path, capsys):
    write_walkers(tmp_path / "in", [1.0, -1.5])
    main(tmp_path / "in", tmp_path / "out", radar=RADAR, processing=QUICK, preview=tmp_path / "look.png")
    assert Image.open(tmp_path / "look.png").size[0] > 800
    assert not (tmp_path / "out").exists() and "nothing else was written" in capsys.readouterr().out
    sources, _ = find_sources(tmp_path / "in", None, None, tmp_path / "out")
    figure, _ = preview(tmp_path / "in", sources, RADAR, QUICK)
    assert "walk1.npy, 1500 × 1 × 1 (chirps × samples × receivers)" in figure.axes[0].get_title()
    with pytest.raises(InputError, match="--preview is look.xyz; expected a file .png"):
        main(tmp_path / "in", tmp_path / "out", radar=RADAR, processing=QUICK, preview="look.xyz")


def test_preview_frames_each_run_of_chosen_gates():
    """Someone walks at gates 2 to 4, someone else at gate 8; a gate is 0.5 m."""
    target = Recording(slow_time(1.0, 3.0)[:, None, None], CARRIER_HZ, PRF_HZ)
    shown = Spectrogram(np.zeros((1, 0)), np.array([2, 3, 4, 8]), np.ones((3000, 12), np.float32))
    cell = Figure().subplots()
    draw_ranges(cell, shown, make_plan(target, QUICK), gate_m=0.5)
    assert [line.get_ydata()[0] for line in cell.lines] == [0.75, 2.25, 3.75, 4.25]
    assert cell.get_title() == "4 gates, between the lines"


# ------------------------------------------------------------------------------------------ run once again

def test_a_repeated_run_changes_nothing_and_makes_what_is_missing(tmp_path):
    write_walkers(tmp_path / "in", [1.0, -1.5])
    args = {"radar": RADAR, "processing": QUICK}
    main(tmp_path / "in", tmp_path / "out", **args)
    before, times = contents(tmp_path / "out"), {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/*/*")}
    lost = tmp_path / "out" / "ID_2" / "walk1_3.png"
    lost.unlink()
    main(tmp_path / "in", tmp_path / "out", **args)
    assert contents(tmp_path / "out") == before
    assert all(path.stat().st_mtime_ns == times[path] for path in times if path.parent.name == "ID_1")
    write_walkers(tmp_path / "more", [2.0])
    (tmp_path / "more" / "ID_1").rename(tmp_path / "in" / "ID_3")       # a new recording is added
    main(tmp_path / "in", tmp_path / "out", **args)
    after = contents(tmp_path / "out")
    assert {name: after[name] for name in before if "/" in name} == {
        name: content for name, content in before.items() if "/" in name}
    assert "ID_3/walk1_1.png" in after and b"ID_3/walk1_1.png" in after["recordings.csv"]


@pytest.mark.parametrize("change, words", [
    (lambda folder: {"processing": replace(QUICK, top_db=0.0)}, r"other options: top_db 6.0 \(now 0.0\)"),
    (lambda folder: {"radar": replace(RADAR, swap_iq=True)}, "it was another: radar"),
    (lambda folder: np.save(folder / "ID_1" / "walk1.npy", slow_time(2.0, 1.0)), "it was another: sha256"),
    (lambda folder: (folder / "ID_1" / "walk1.npy").unlink(), "made of ID_1/walk1.npy, too")])
def test_a_change_is_refused_or_with_force_written_anew(tmp_path, change, words):
    write_walkers(tmp_path / "in", [1.0, -1.5])
    args = {"radar": RADAR, "processing": QUICK}
    main(tmp_path / "in", tmp_path / "out", **args)
    (tmp_path / "out" / "ID_1" / "notes.txt").write_text("mine")
    before = contents(tmp_path / "out")
    args |= change(tmp_path / "in") or {}
    with pytest.raises(InputError, match=words) as caught:
        main(tmp_path / "in", tmp_path / "out", **args)
    assert "--force" in str(caught.value) and contents(tmp_path / "out") == before
    main(tmp_path / "in", tmp_path / "out", **args, force=True)
    main(tmp_path / "in", tmp_path / "fresh", **args)
    forced = contents(tmp_path / "out")
    assert forced.pop("ID_1/notes.txt") == b"mine" and forced == contents(tmp_path / "fresh")


@pytest.mark.parametrize("version", [None, PROCESSING_VERSION - 1, PROCESSING_VERSION + 1])
def test_images_of_another_version_of_the_processing_are_not_completed(tmp_path, version):
    """None: the number is missing, as in conversion.json of the first versions."""
    write_walkers(tmp_path / "in", [1.0, -1.5])
    args = {"radar": RADAR, "processing": QUICK}
    main(tmp_path / "in", tmp_path / "out", **args)
    fresh = contents(tmp_path / "out")
    kept = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert kept.pop("processing_version") == PROCESSING_VERSION
    kept |= {} if version is None else {"processing_version": version}
    (tmp_path / "out" / "conversion.json").write_text(json.dumps(kept))
    (tmp_path / "out" / "ID_2" / "walk1_3.png").unlink()
    before = contents(tmp_path / "out")
    with pytest.raises(InputError, match=rf"processing_version {version} \(now {PROCESSING_VERSION}\).*--force"):
        main(tmp_path / "in", tmp_path / "out", **args)
    assert contents(tmp_path / "out") == before
    main(tmp_path / "in", tmp_path / "out", **args, force=True)
    assert contents(tmp_path / "out") == fresh


def test_a_run_that_was_stopped_goes_on(tmp_path):
    write_walkers(tmp_path / "in", [1.0, -1.5])
    args = {"radar": RADAR, "processing": QUICK}
    main(tmp_path / "in", tmp_path / "whole", **args)
    np.save(tmp_path / "in" / "ID_2" / "walk1.npy", np.ones(3, complex))
    with pytest.raises(InputError, match="holds 3 chirps"):
        main(tmp_path / "in", tmp_path / "out", **args)
    assert not (tmp_path / "out" / "recordings.csv").exists()
    (tmp_path / "in" / "ID_2" / "walk1.npy").unlink()
    write_walkers(tmp_path / "again", [1.0, -1.5])
    (tmp_path / "again" / "ID_2" / "walk1.npy").rename(tmp_path / "in" / "ID_2" / "walk1.npy")
    main(tmp_path / "in", tmp_path / "out", **args)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_other_data_in_the_folder_are_left_alone_even_with_force(tmp_path):
    write_walkers(tmp_path / "in", [1.0])
    (tmp_path / "out" / "ID_1").mkdir(parents=True)
    with pytest.raises(InputError, match="holds ID_1, and no conversion"):
        main(tmp_path / "in", tmp_path / "out", radar=RADAR, processing=QUICK, force=True)
    (tmp_path / "out" / "conversion.json").write_text("[]")
    with pytest.raises(InputError, match="not what the converter writes"):
        main(tmp_path / "in", tmp_path / "out", radar=RADAR, processing=QUICK, force=True)


def test_recordings_of_another_radar_are_refused_and_short_ones_named(tmp_path, capsys):
    write_walkers(tmp_path / "in", [1.0, 1.0])
    np.save(tmp_path / "in" / "ID_2" / "blip.npy", slow_time(1.0, 0.3))
    main(tmp_path / "in", tmp_path / "out", radar=RADAR, processing=QUICK)
    assert "1 recordings are shorter than an image: ID_2/blip.npy" in capsys.readouterr().out
    for folder, prf_hz in (("ID_1", 1000), ("ID_2", 900)):
        (tmp_path / "in" / folder / "radar.json").write_text(f'{{"carrier_hz": 24e9, "prf_hz": {prf_hz}}}')
    with pytest.raises(InputError, match=r"ID_2/blip.npy is of another radar.*prf_hz 1000.0 \(now 900.0\)"):
        main(tmp_path / "in", tmp_path / "out2", processing=QUICK)
    with pytest.raises(InputError, match="shorter than an image"):
        main(tmp_path / "in", tmp_path / "out3", radar=RADAR, processing=replace(QUICK, window_seconds=9.0))


def test_after_recordings_too_short_for_an_image_a_shorter_one_is_no_change(tmp_path):
    """The message says to give a shorter --window_seconds: the next run does as it says."""
    write_walkers(tmp_path / "in", [1.0])
    with pytest.raises(InputError, match="give a shorter --window_seconds"):
        main(tmp_path / "in", tmp_path / "out", radar=RADAR, processing=replace(QUICK, window_seconds=9.0))
    main(tmp_path / "in", tmp_path / "out", radar=RADAR, processing=QUICK)
    main(tmp_path / "in", tmp_path / "fresh", radar=RADAR, processing=QUICK)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


# ------------------------------------------------------------------------------------------------- classes

def test_classes_come_from_folders_names_patterns_or_a_table(tmp_path):
    for name in ("walker/day1/a.npy", "walker/b.MAT", "sitter/a.npy", "walker/notes.md", "sitter/a.raw.bin",
                 "sitter/out/a.npy", "recordings.csv", "December 2017/1P07A01R02.dat", "sitter/my_recordings.csv"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"")

    def found(table=None, pattern=None):
        sources, rule = find_sources(tmp_path / "in", table, pattern, tmp_path / "in" / "sitter" / "out")
        return {source.path: source.images(1, ".png")[0] for source in sources}, rule
    images, rule = found()
    assert rule == "the folders and the persons in Glasgow's names"
    assert images == {"December 2017/1P07A01R02.dat": "P07/December 2017/1P07A01R02_1.png",
                      "sitter/a.npy": "sitter/a_1.png", "sitter/my_recordings.csv": "sitter/my_recordings_1.png",
                      "walker/b.MAT": "walker/b_1.png", "walker/day1/a.npy": "walker/day1/a_1.png"}
    assert found(pattern=r"(x)?^(?P<class>\w)")[0]["sitter/a.npy"] == "s/sitter/a_1.png"
    assert found(pattern=r"^(\w)")[0]["walker/b.MAT"] == "w/walker/b_1.png"
    table = tmp_path / "in" / "classes.csv"
    table.write_text("class;path\n" + "".join(f"x;{path}\n" for path in images))
    assert set(found(table=table)[0]) == set(images) and found(table=table)[1] == "classes.csv"


@pytest.mark.parametrize("files, given, words", [
    ([], {}, "holds no recording"), (["a.npy"], {}, "a.npy, whose class is unknown"),
    (["x/a.npy"], {"class_pattern": "("}, "no regular expression"),
    (["x/a.npy"], {"class_pattern": "x"}, "has no group"), (["x/a.npy"], {"class_pattern": "(z)"}, "does not match"),
    (["x/a.npy"], {"class_pattern": "(x/)"}, "expected the name of a folder"),
    (["x/a.npy", "x/a.npz"], {}, "differ in their suffix only"),
    (["x/a.npy"], {"class_table": "path,class\nb.npy,x"}, "lacks x/a.npy"),
    (["x/a.npy"], {"class_table": "file,class\nb.npy,x"}, "with the columns path and class"),
    (["x/a.npy"], {"class_table": "path,class\n", "class_pattern": "(x)"}, "give one")])
def test_classes_that_cannot_be_told_are_named(tmp_path, files, given, words):
    (tmp_path / "in").mkdir()
    for name in files:
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"")
    if "class_table" in given:
        (tmp_path / "t.csv").write_text(given["class_table"])
        given = given | {"class_table": tmp_path / "t.csv"}
    with pytest.raises(InputError, match=words):
        main(tmp_path / "in", tmp_path / "out", **given)
    with pytest.raises(InputError, match="is no folder"):
        main(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(InputError, match="--output_dir .* holds --input"):
        main(tmp_path / "in", tmp_path)


def test_the_glasgow_recipe_at_its_command_line(tmp_path, monkeypatch, capsys):
    """By the person in the name; a chosen range, grey pictures, and the next command."""
    (tmp_path / "in").mkdir()
    write_glasgow(tmp_path / "in" / "6P12A06R3.dat", chirps(1.2, 1.5, 4.0))
    words = ["convert", "--input", tmp_path / "in", "--output_dir", tmp_path / "out", "--window_seconds", "0.5",
             "--image_size", "32", "--channels", "1", "--range_m"]
    monkeypatch.setattr(sys, "argv", [*map(str, words), "2", "5"])
    runpy.run_module("microdoppler.convert", run_name="__main__")
    out = capsys.readouterr().out
    assert "classes from the persons in Glasgow's names" in out and "P12             1" in out
    assert "-3.14 … 3.106 m/s" in out and f"next: python -m microdoppler.split --data_path {tmp_path / 'out'}" in out
    kept = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert kept["options"]["range_m"] == [2, 5] and kept["plan"]["clutter"] == "mti"
    monkeypatch.setattr(sys, "argv", [*map(str, words), "5", "2"])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_module("microdoppler.convert", run_name="__main__")
    assert capsys.readouterr().err.startswith("error: range_m is (5.0, 2.0); expected two distances")


def test_constants_of_a_training_give_the_folder_and_nothing_that_means_something_else(tmp_path, monkeypatch):
    """Config's device, image_size, window_seconds and velocity_range_mps have the names of options of the converter."""
    write_walkers(tmp_path / "in", [1.0], seconds=3)
    constants = to_plain(replace(PRESETS["cpu-minutes"], data_path=tmp_path / "out", device="cpu", image_size=64,
                                 window_seconds=1.0, velocity_range_mps=(-1.0, 1.0)))
    (tmp_path / "config.json").write_text(json.dumps(constants))
    words = ["convert", "--config", tmp_path / "config.json", "--input", tmp_path / "in", "--carrier_hz", CARRIER_HZ,
             "--prf_hz", PRF_HZ]
    monkeypatch.setattr(sys, "argv", [*map(str, words)])
    runpy.run_module("microdoppler.convert", run_name="__main__")
    options = json.loads((tmp_path / "out" / "conversion.json").read_text())["options"]
    assert options == to_plain(Processing())
