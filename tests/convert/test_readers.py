"""Each reader gives the samples that an independent writer, or the format's own document, puts into its files."""
import os
import time
from pathlib import Path
from signal import SIGINT, default_int_handler, signal

import numpy as np
import pytest
import scipy
from hypothesis import given, settings
from hypothesis import strategies as st
from loky import get_reusable_executor
from radar_signals import slow_time, write_all_formats, write_glasgow, write_infineon, write_mat73

from groundwork.errors import InputError
from microdoppler.convert.loadmat import stay_in_background
from microdoppler.convert.readers import read_recording
from microdoppler.convert.recording import SHORTEST, as_signal
from microdoppler.radar.settings import RadarSettings, read_settings, settings_of

RADAR = RadarSettings(carrier_hz=24e9, prf_hz=1000.0)
RNG = np.random.default_rng(0)


def noise(*shape):
    return (RNG.standard_normal((*shape, 2)) @ [1, 1j]).astype(np.complex64)


def read(path, **given):
    return read_recording(path, RadarSettings(**{**vars(RADAR), **given}))


# ------------------------------------------------------------------------------------------------- Glasgow

def test_glasgow_by_hand(tmp_path):
    lines = ["5800000000", "1", "2", "400000000", *["1.5+2i", "-3e-01-4.25i"] * SHORTEST]
    (tmp_path / "1P01A01R01.dat").write_text("\r\n".join(lines))
    found = read_recording(tmp_path / "1P01A01R01.dat", RadarSettings())
    assert found.signal.shape == (SHORTEST, 2, 1) and found.signal.dtype == np.complex64
    assert np.array_equal(found.signal[3, :, 0], np.array([1.5 + 2j, -0.3 - 4.25j], np.complex64))
    assert (found.carrier_hz, found.prf_hz, found.bandwidth_hz) == (5.8e9, 1000, 4e8)
    assert found.gate_m == pytest.approx(0.3747, abs=1e-4)


def test_glasgow_sweeps_follow_each_other_and_a_continuous_wave_has_none(tmp_path):
    beat = noise(40, 8)
    write_glasgow(tmp_path / "a.dat", beat)
    assert np.allclose(read_recording(tmp_path / "a.dat", RadarSettings()).signal[:, :, 0], beat, atol=1e-4)
    write_glasgow(tmp_path / "cw.dat", beat, bandwidth_hz=0)
    wave = read_recording(tmp_path / "cw.dat", RadarSettings())
    assert wave.signal.shape == (320, 1, 1) and wave.prf_hz == 8000
    assert np.allclose(wave.signal[:, 0, 0], beat.ravel(), atol=1e-4)


# ------------------------------------------------------------------------------------------------- DCA1000

DCA = {"samples_per_chirp": 4, "receivers": 2, "device": "xwr16xx"}


def test_dca1000_of_xwr16xx_by_the_order_in_swra581(tmp_path):
    """Two transmitters by turns, two receivers, four samples. A sample is 1000 loop + 100 chirp + 10 receiver + n,
    and its Q is the negative of that."""
    words = []
    for loop in range(SHORTEST):
        for transmitter in (0, 1):
            for receiver in (0, 1):
                for n in (0, 2):
                    value = 1000 * loop + 100 * transmitter + 10 * receiver + n
                    words += [value, value + 1, -value, -value - 1]
    np.array(words, "<i2").tofile(tmp_path / "a.bin")
    signal = read(tmp_path / "a.bin", **DCA, transmitters=2).signal
    assert signal.shape == (SHORTEST, 4, 4)
    loop, n, channel = np.indices(signal.shape)
    expected = 1000 * loop + 100 * (channel // 2) + 10 * (channel % 2) + n
    assert np.array_equal(signal, (1 - 1j) * expected)


def test_dca1000_of_xwr14xx_has_four_lanes_of_which_some_are_empty(tmp_path):
    words = []
    for chirp in range(SHORTEST):
        for n in range(4):
            words += [10 * chirp + n, 500 + n, 0, 0, -chirp, -500 - n, 0, 0]       # I of four lanes, Q of four lanes
    np.array(words, "<i2").tofile(tmp_path / "a.bin")
    signal = read(tmp_path / "a.bin", **DCA | {"device": "xwr14xx"}).signal
    chirp, n = np.indices(signal.shape[:2])
    assert np.array_equal(signal[:, :, 0], 10 * chirp + n - 1j * chirp)
    assert np.array_equal(signal[:, :, 1], 500 + n - 1j * (500 + n))


# ------------------------------------------------------------------------------------------------ Infineon

def test_infineon_by_hand(tmp_path):
    """Two antennas: I of the first, Q of the first, I of the second, Q of the second. 150 ms from frame to frame."""
    header = {"Num_Rx_Antennas": 2, "Are_Rx_Antennas_Interleaved": 0, "Modulation_Type_Enum": 0,
              "Lower_RF_Frequency_kHz": 24050000, "Upper_RF_Frequency_kHz": 24250000, "Sampling_Frequency_kHz": 2,
              "Data_Format_Enum": 1, "Chirps_per_Frame": 1, "Samples_per_Chirp": 16, "Frame_Period_sec": 0.15}
    lines = ["IFRT", "## Modulation_Type_Enum_Def = {DOPPLER = 0, FMCW = 1}",
             *(f"# {name} = {value}" for name, value in header.items()), ""]
    for frame in (7, 8):
        lines += [f"# Frame_Number = {frame}", *(f"{frame + part / 10}" for part in range(4) for _ in range(16))]
    (tmp_path / "a.raw.txt").write_text("\n".join(lines))
    found = read_recording(tmp_path / "a.raw.txt", RadarSettings())
    assert found.signal.shape == (32, 1, 2)
    assert np.allclose(found.signal[:16, 0], [7 + 7.1j, 7.2 + 7.3j])
    assert np.allclose(found.signal[16:, 0], [8 + 8.1j, 8.2 + 8.3j])
    assert (found.carrier_hz, found.prf_hz, found.frame_chirps, found.frame_seconds) == (24.05e9, 2000, 16, 0.15)


def test_infineon_refuses_lost_frames_and_leaves_out_the_last_incomplete_one(tmp_path):
    path, frames = tmp_path / "a.txt", noise(4, 16)
    write_infineon(path, frames, rest_frames=1)
    whole = path.read_text()
    path.write_text(whole[:-20])
    assert len(read_recording(path, RadarSettings()).signal) == 48
    path.write_text(whole.replace("Number = 35", "Number = 39").replace("Number = 36", "Number = 40"))
    with pytest.raises(InputError, match="4 frames, but they are numbered 33 … 40; frames were lost"):
        read_recording(path, RadarSettings())


# -------------------------------------------------------------------------------------------------- arrays

@pytest.mark.parametrize("write", [
    lambda path, **arrays: scipy.io.savemat(path, arrays),
    lambda path, **arrays: scipy.io.savemat(path, arrays, format="4"), write_mat73])
def test_mat_files_of_three_versions(tmp_path, write):
    beat = noise(40, 6)
    write(tmp_path / "a.mat", cube=beat, t=np.arange(40.0))
    assert np.array_equal(read(tmp_path / "a.mat").signal, beat[:, :, None])       # the only complex one
    write(tmp_path / "b.mat", re=beat.real, im=beat.imag)
    assert np.allclose(read(tmp_path / "b.mat", variable=("re", "im")).signal[:, :, 0], beat)
    with pytest.raises(InputError, match=r"re \(40 x 6\).*--variable NAME"):
        read(tmp_path / "b.mat")


def test_mat_structures_and_cubes_of_version_7_3_keep_matlabs_axes(tmp_path):
    cube = noise(20, 6, 3)
    scipy.io.savemat(tmp_path / "a.mat", {"radar": {"iq": cube, "name": "x"}, "other": noise(20)})
    assert np.array_equal(read(tmp_path / "a.mat", variable=("radar.iq",)).signal, cube)
    write_mat73(tmp_path / "b.mat", **{"radar/iq": cube})
    assert np.array_equal(read(tmp_path / "b.mat", variable=("radar.iq",)).signal, cube)


def test_npz_with_i_and_q_and_several_arrays(tmp_path):
    signal = noise(100)
    np.savez(tmp_path / "a.npz", I=signal.real, Q=signal.imag, t=np.arange(100.0))
    assert np.allclose(read(tmp_path / "a.npz").signal[:, 0, 0], signal)


@settings(max_examples=60, deadline=None)
@given(chirps=st.integers(SHORTEST, 30), samples=st.integers(3, 12), receivers=st.integers(1, 3), data=st.data())
def test_arrays_of_any_layout_become_chirps_samples_channels(chirps, samples, receivers, data):
    """The same samples, however they lie: one chirp after the other, as matrix, turned, or as cube."""
    cube = np.random.default_rng(chirps).standard_normal((chirps, samples, receivers, 2)) @ [1, 1j]
    layouts = {"cube": cube}
    if receivers == 1:
        matrix = cube[..., 0]
        layouts |= {"matrix": matrix, "in a row": matrix.ravel(), "as a MATLAB row": matrix.reshape(1, -1),
                    "I and Q": np.stack([matrix.ravel().real, matrix.ravel().imag], axis=1),
                    "I above Q": np.stack([matrix.ravel().real, matrix.ravel().imag])}
    if chirps != samples:
        layouts |= {"turned": cube.swapaxes(0, 1)}
    array = layouts[data.draw(st.sampled_from(sorted(layouts)))]
    found = as_signal("a.npy", array, RadarSettings(samples_per_chirp=samples))
    assert np.allclose(found, cube)


@pytest.mark.parametrize("name, shape", [("a.npy", (64, 100)), ("a.npy", (64, 100, 3)), ("a.npy", (100, 3, 64)),
                                         ("a.mat", (64, 100))])
def test_axes_in_an_unusual_order_are_read_only_when_the_samples_are_told(tmp_path, name, shape):
    """More samples than chirps, or more receivers than samples: they may lie in another order."""
    array = noise(*shape)
    np.save(tmp_path / name, array) if name == "a.npy" else scipy.io.savemat(tmp_path / name, {"iq": array})
    words = f"{name} is {' x '.join(map(str, shape))}; .*--samples_per_chirp {shape[1]} .* or {shape[0]} to exchange"
    with pytest.raises(InputError, match=words):
        read(tmp_path / name)
    array = array if array.ndim == 3 else array[:, :, None]
    assert np.array_equal(read(tmp_path / name, samples_per_chirp=shape[1]).signal, array)
    if shape[0] == 64:
        assert np.array_equal(read(tmp_path / name, samples_per_chirp=64).signal, array.swapaxes(0, 1))


# ------------------------------------------------------------------------------------------- tables and wav

@pytest.mark.parametrize("text", [
    "I,Q\n{0},{1}\n", "{0} {1}\n", "time;Q;I\n0,0;{1};{0}\n", "n\tREAL\tIMAG\n0\t{0}\t{1}\n", "{0}{1:+}i\n",
    "a,b,c\n{0},9,{1}\n", "# I,t,Q\n{0},9,{1}\n", "# I Q\n{0} {1}\n", "# n I Q P\n9 {0} {1} 9\n",
    "# 24 1000\n{0} {1}\n", "t,\tI,\tQ\n9,\t{0},\t{1}\n", '"n" "I" "Q"\n"9" "{0}" "{1}"\n', '"{0}" "{1}"\n',
    '"I","Q"\n"{0}","{1}"\n', '"{0}";"{1}"\n'])
def test_tables(tmp_path, text):
    head, row = ([*text.splitlines(), ""][:2] if "\n" in text[:-1] else ["", text.strip()])
    pairs = RNG.standard_normal((20, 2)).round(3)
    body = [row.format(*pair).replace(".", "," if ";" in text else ".") for pair in pairs]
    (tmp_path / "a.csv").write_text("\n".join([head, *body] if head else body))
    names = ("a", "c") if text.startswith("a,b,c") else ()
    assert np.allclose(read(tmp_path / "a.csv", variable=names).signal[:, 0, 0], pairs @ [1, 1j])


@pytest.mark.parametrize("dtype, scale", [(np.int16, 1e4), (np.int32, 1e9), (np.float32, 1)])
def test_wav(tmp_path, dtype, scale):
    pairs = (RNG.uniform(-1, 1, (50, 2)) * scale).astype(dtype)
    scipy.io.wavfile.write(tmp_path / "a.wav", 44100, pairs)
    found = read_recording(tmp_path / "a.wav", RadarSettings(carrier_hz=2.4e9))
    assert found.prf_hz == 44100 and np.allclose(found.signal[:, 0, 0], pairs @ [1, 1j])
    in_chirps = read_recording(tmp_path / "a.wav", RadarSettings(carrier_hz=2.4e9, samples_per_chirp=3))
    assert in_chirps.signal.shape == (16, 3, 1) and in_chirps.prf_hz == 14700


# ------------------------------------------------------------------------------------------------- settings

def test_options_come_before_radar_json_and_that_before_the_file(tmp_path):
    (tmp_path / "day").mkdir()
    np.save(tmp_path / "day" / "a.npy", slow_time(1, 1))
    RadarSettings(carrier_hz=10e9, prf_hz=500.0).write(tmp_path)
    path = tmp_path / "day" / "a.npy"
    assert settings_of(path, tmp_path, RadarSettings(prf_hz=9.0)) == RadarSettings(carrier_hz=10e9, prf_hz=9.0)
    (tmp_path / "day" / "radar.json").write_text('{"carrier_hz": 5e9}')
    assert settings_of(path, tmp_path, RadarSettings()).carrier_hz == 5e9
    scipy.io.wavfile.write(tmp_path / "a.wav", 8000, np.ones((50, 2), np.int16))
    assert read_recording(tmp_path / "a.wav", RadarSettings(carrier_hz=1e9, prf_hz=200.0)).prf_hz == 200
    for content in ('{"prf": 3}', "[]", '{"prf_hz": -3}', '{"prf_hz": "many"}'):
        (tmp_path / "radar.json").write_text(content)
        with pytest.raises(InputError, match="radar.json"):
            read_settings(tmp_path / "radar.json")


def test_swapped_i_and_q_and_frames(tmp_path):
    signal = noise(100)
    np.save(tmp_path / "a.npy", signal)
    assert np.array_equal(read(tmp_path / "a.npy", swap_iq=True).signal[:, 0, 0], signal.conj())
    frames = read(tmp_path / "a.npy", chirps_per_frame=32, frame_seconds=0.05)
    assert len(frames.signal) == 96 and frames.frame_chirps == 32
    assert read(tmp_path / "a.npy", chirps_per_frame=32, frame_seconds=0.032).frame_chirps == 0     # it never rests


# ------------------------------------------------------------------------------------------------- nonsense

@pytest.mark.parametrize("name, content, given, words", [
    ("a.dat", b"hello", {}, "no recording of the Glasgow data set"),
    ("a.dat", b"5e9\n1\n128\n4e8\n1+1i\n", {}, "at least one sweep"),
    ("a.dat", b"\xff\xfe\x00", {}, "no recording of the Glasgow data set"),
    ("a.bin", b"12345678", {}, "--samples_per_chirp, --receivers, --device"),
    ("a.bin", bytes(100), DCA, "100 bytes; expected a multiple of 32, .* cut off"),
    ("a.bin", bytes(96), DCA | {"receivers": 7}, "up to 4 receivers"),
    ("a.mat", b"MATLAB 5.0 MAT-file", {}, "no complete .mat file"),
    ("a.npy", b"hello", {}, "no complete NumPy file"),
    ("a.npz", b"PK", {}, "no complete NumPy file"),
    ("a.csv", b"I,Q\n1,2\n3\n", {}, "expected a table of numbers"),
    ("a.csv", b"t,a,b\n1,2,3\n" * 1, {}, "3 columns of real numbers: t, a, b; expected I and Q"),
    ("README.txt", b"Walks of 2020.\nSee the paper.\n", {}, "one line of names; move a file that is no recording out"),
    ("a.csv", b"", {}, "is empty"),
    ("a.csv", b"\x00\xff\x00", {}, "is no text"),
    ("a.csv", b"x," + 200000 * b"x", {}, "expected a table of numbers"),
    ("a.csv", b"I,Q\n1,2\n", {"variable": ("x",)}, "no column x"),
    ("a.txt", b"IFRT\n# Version = 1\n", {}, "lacks 'Num_Rx_Antennas'"),
    ("a.wav", b"RIFF", {}, "no complete .wav file")])
def test_nonsense_is_named(tmp_path, name, content, given, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        read(tmp_path / name, **given)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("array, given, words", [
    (np.ones(100), {}, "real samples need --samples_per_chirp"),
    (noise(100), {"carrier_hz": None}, "does not tell its carrier_hz"),
    (noise(5), {}, "holds 5 chirps"),
    (np.full(100, np.nan + 0j), {}, "not finite"),
    (noise(100), {"frame_seconds": 1.0}, "chirps_per_frame is None, and frame_seconds 1.0"),
    (noise(100), {"frame_seconds": 1.0, "chirps_per_frame": 200}, "less than a frame"),
    (noise(100), {"frame_seconds": 0.01, "chirps_per_frame": 50}, "last 0.05 s"),
    (np.ones((100, 8)), {"swap_iq": True}, "have no Q"),
    (noise(20, 8), {"samples_per_chirp": 7}, "20 x 8, and samples_per_chirp 7"),
    (np.array(["a"] * 50), {}, "expected numbers"),
    (noise(20, 2, 2, 2), {}, "of shape")])
def test_arrays_that_cannot_be_are_named(tmp_path, array, given, words):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InputError, match=words) as caught:
        read(tmp_path / "a.npy", **given)
    assert str(tmp_path / "a.npy") in str(caught.value)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """{path of a small recording in each format: its settings}, and a folder to write to."""
    folder = tmp_path_factory.mktemp("formats")
    given = write_all_formats(folder, 1.5, 0.1)
    return {next((folder / name).glob("walker/*")): RadarSettings(**{"prf_hz": 1e3, **settings})
            for name, settings in given.items()}, folder


def test_mat_files_are_found_after_a_change_of_the_working_folder(tmp_path, monkeypatch):
    scipy.io.savemat(tmp_path / "a.mat", {"iq": noise(40)})
    signal = read(tmp_path / "a.mat").signal
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(read(Path("a.mat")).signal, signal)


def test_ctrl_c_leaves_the_process_that_reads_mat_files(tmp_path):
    """A terminal and a notebook send it to all processes. If it ended this one, the next file would look damaged."""
    def number_of_process() -> int:
        return get_reusable_executor(max_workers=1, initializer=stay_in_background).submit(os.getpid).result()
    get_reusable_executor(max_workers=1).shutdown()
    own = signal(SIGINT, default_int_handler)       # else a process may ignore it, as this one may in the background
    scipy.io.savemat(tmp_path / "a.mat", {"iq": noise(40)})
    read(tmp_path / "a.mat")
    signal(SIGINT, own)
    before = number_of_process()
    time.sleep(0.2)     # it collects garbage after a task, which hides an interrupt
    os.kill(before, SIGINT)
    time.sleep(0.2)
    assert number_of_process() == before


@pytest.mark.parametrize("code", [8, 200])      # reserved, and beyond SciPy's table
def test_a_mat_file_that_ends_scipys_process_is_refused(tmp_path, capfd, code):
    """SciPy 1.17 looks the code of a data type up without a check. Other files can be read before and after it."""
    get_reusable_executor(max_workers=1).shutdown()     # a process of another test writes to that test's capture
    scipy.io.savemat(tmp_path / "a.mat", {"radar": {"iq": noise(40), "note": "x"}})
    content = (tmp_path / "a.mat").read_bytes()
    tag = np.array([7, 4 * 40], "<u4").tobytes()        # float32, 160 bytes
    assert content.count(tag) == 2                      # the real parts and the imaginary ones
    (tmp_path / "b.mat").write_bytes(content.replace(tag, np.array([code, 4 * 40], "<u4").tobytes()))
    before = read(tmp_path / "a.mat", variable=("radar.iq",)).signal
    with pytest.raises(InputError, match="b.mat is no complete .mat file"):
        read(tmp_path / "b.mat")
    assert np.array_equal(read(tmp_path / "a.mat", variable=("radar.iq",)).signal, before)
    assert capfd.readouterr() == ("", "")


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(files, data):
    """Never another error: bytes are changed, or the end is missing."""
    path = data.draw(st.sampled_from(sorted(files[0])))
    content = bytearray(path.read_bytes())
    place = st.integers(0, len(content) - 1)
    for _ in range(data.draw(st.integers(0, 3))):
        start = min(data.draw(place), data.draw(place))       # more often near the header
        new = data.draw(st.binary(max_size=8) | st.sampled_from([b"0", b"-1", b"nan", b"1e999", b"\n", b" ", b"inf"]))
        content[start:start + len(new)] = new
    content = content[:data.draw(place) + 1] if data.draw(st.booleans()) else content
    damaged = files[1] / f"damaged{''.join(path.suffixes)}"
    damaged.write_bytes(content)
    try:
        recording = read_recording(damaged, files[0][path])
    except InputError as error:
        assert str(damaged) in str(error)
    else:
        assert np.isfinite(recording.signal).all() and len(recording.signal) >= SHORTEST
