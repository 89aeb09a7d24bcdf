"""A point target at a known speed and range appears at its Doppler and its gate, at its level."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from radar_signals import BANDWIDTH_HZ, CARRIER_HZ, PRF_HZ, C, chirps, slow_time

from groundwork.errors import InputError
from microdoppler.convert.processing import (MTI_MPS, Processing, gates_between, make_plan, make_spectrogram,
                                             moving_gates, range_profiles, remove_clutter)
from microdoppler.convert.recording import Recording
from microdoppler.radar.spectrogram import stft_db

FASTEST = PRF_HZ * C / CARRIER_HZ / 4       # 3.12 m/s
GATE_M = C / (2 * BANDWIDTH_HZ)


def recording(signal, **given):
    signal = signal.astype(np.complex64)
    return Recording(signal.reshape(*signal.shape, *[1] * (3 - signal.ndim)), CARRIER_HZ, PRF_HZ, **given)


def fmcw(signal):
    return recording(signal, bandwidth_hz=BANDWIDTH_HZ)


def peak_mps(spectrogram, plan):
    """The speed of the strongest row of each column."""
    rows = spectrogram.levels.argmax(axis=0)
    return plan.axes.highest_mps - (rows + 0.5) * plan.bin_mps


# ------------------------------------------------------------------------------------------------- Doppler

@settings(max_examples=15, deadline=None)
@given(speed=st.floats(-3, 3).filter(lambda speed: abs(speed) > 0.4), clutter=st.sampled_from(["none", "mean", "mti"]),
       nfft=st.sampled_from([None, 64, 97]))
def test_a_point_is_at_its_speed_whatever_the_removal_of_clutter(speed, clutter, nfft):
    options = Processing(clutter=clutter, nfft=nfft, window_seconds=0.2)
    target = recording(slow_time(speed, 1.0))
    plan = make_plan(target, options)
    found = peak_mps(make_spectrogram(target, plan, options), plan)
    half = len(found) // 2      # after what the filter needs to begin
    assert np.abs(found[half:] - speed).max() <= plan.bin_mps * 0.51


@pytest.mark.parametrize("speed", [-1.3, 0.8, 2.6])
def test_a_point_before_an_fmcw_radar_is_at_its_speed_and_its_gate(speed):
    target = fmcw(chirps(speed, 1.0, 6.0) + 30 * chirps(0, 1.0, 2.0))
    options = Processing(window_seconds=0.2)
    plan = make_plan(target, options)
    spectrogram = make_spectrogram(target, plan, options)
    assert np.abs(peak_mps(spectrogram, plan) - speed).max() <= plan.bin_mps
    places = [(6.0 - speed * when) / GATE_M for when in (0, 1)]
    assert min(places) - 2 <= spectrogram.gates.min() <= spectrogram.gates.max() <= max(places) + 2


@settings(max_examples=30, deadline=None)
@given(gate=st.integers(0, 63), is_real=st.booleans())
def test_a_gate_is_at_its_range_and_keeps_the_phase(gate, is_real):
    if is_real:
        gate = 2 + gate % 28
    beat = chirps(0, 0.02, gate * GATE_M)
    profiles = range_profiles(Recording((beat.real if is_real else beat).astype(
        np.float32 if is_real else np.complex64)[:, :, None], CARRIER_HZ, PRF_HZ, BANDWIDTH_HZ))
    assert profiles.shape[1] == (32 if is_real else 64)
    assert np.abs(profiles[0, :, 0]).argmax() == gate
    found = profiles[0, gate, 0] / (32 if is_real else 64)
    phase = np.exp(-4j * np.pi * gate * GATE_M * (CARRIER_HZ - BANDWIDTH_HZ / 2) / C)       # where the sweep begins
    assert found == pytest.approx(phase, abs=0.02)


def test_an_ambiguous_speed_is_shown_where_it_is_expected():
    options = Processing(clutter="none", velocity_range_mps=(-1.0, 5.0), window_seconds=0.2)
    target = recording(slow_time(4.5, 0.6))         # folded to 4.5 - 6.25
    plan = make_plan(target, options)
    assert np.abs(peak_mps(make_spectrogram(target, plan, options), plan) - 4.5).max() <= plan.bin_mps
    assert plan.axes.lowest_mps == pytest.approx(-1, abs=plan.bin_mps / 2)
    assert plan.axes.highest_mps == pytest.approx(5, abs=plan.bin_mps / 2)


@settings(max_examples=60, deadline=None)
@given(carrier_hz=st.floats(1e9, 1e11), prf_hz=st.floats(100, 20000), nfft_factor=st.integers(1, 5),
       low=st.floats(-8, 2), span=st.floats(0.5, 10))
def test_axes_are_those_that_were_asked_for_within_half_a_bin(carrier_hz, prf_hz, nfft_factor, low, span):
    target = Recording(np.ones((50, 1, 1), np.complex64), carrier_hz, prf_hz)
    options = Processing(clutter="mean", stft_seconds=64 / prf_hz, nfft=64 * nfft_factor, window_seconds=2.0)
    options = Processing(**{**vars(options), "velocity_range_mps": (low, low + span)})
    try:
        plan = make_plan(target, options)
    except InputError as error:
        assert "at most the" in str(error) or "two spectra" in str(error)
        return
    assert plan.axes.lowest_mps == pytest.approx(low, abs=plan.bin_mps / 2 + 1e-9)
    assert plan.axes.highest_mps == pytest.approx(low + span, abs=plan.bin_mps / 2 + 1e-9)
    assert plan.axes.window_seconds == pytest.approx(2, abs=plan.column_seconds / 2 + 1e-9)


# --------------------------------------------------------------------------------------------------- level

def test_the_level_of_a_known_tone():
    """A tone of amplitude A on a bin has the power A² (Σw)² / Σw²; two gates of A/2 have that, too. A chirp that is
    hit alone has A² w² / Σw² in every bin."""
    window = np.hanning(66)[1:-1]
    gain = 20 * np.log10(window.sum()) - 10 * np.log10(np.square(window).sum())
    tone = 10 * np.exp(2j * np.pi * 8 / 64 * np.arange(200))
    for signals in (tone[None], np.stack([tone / 2, tone / 2 * 1j])):
        levels = stft_db(signals, 64, 16, 64, -32, 64)
        assert levels[31 - 8] == pytest.approx(np.full(9, 20 + gain), abs=1e-3)       # rows fall from bin 31 on
        assert levels[31 + 8].max() < levels.max() - 60
    impulse = np.zeros(64, complex)
    impulse[20] = 10
    expected = 20 + 20 * np.log10(window[20]) - 10 * np.log10(np.square(window).sum())
    assert np.allclose(stft_db(impulse[None], 64, 1, 64, -32, 64), expected, atol=1e-3)


@pytest.mark.parametrize("num_channels", [2, 40])
def test_noise_does_not_add_up_over_channels(num_channels):
    """A tone in one channel keeps its level; noise of all of them sinks to what scatters around its mean. The magnitude
    of noise of power 1 has mean sqrt(π) / 2 and variance 1 - π / 4. A second tone is in a half of the time."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((num_channels, 20000, 2)) @ [1, 1j] / np.sqrt(2)
    noise[0] += 8 * np.exp(2j * np.pi * 8 / 64 * np.arange(20000))
    noise[1, :10000] += 4 * np.exp(2j * np.pi * -20 / 64 * np.arange(10000))
    levels = 10 ** (stft_db(noise, 64, 16, 64, -32, 64) / 20)
    tone = 10 ** (stft_db(8 * np.exp(2j * np.pi * 8 / 64 * np.arange(64))[None], 64, 16, 64, -32, 64).max() / 20)
    assert levels[31 - 8].mean() == pytest.approx(tone, rel=0.05)
    scatter = np.sqrt(num_channels * (1 - np.pi / 4))
    assert levels[:20].mean() == pytest.approx(scatter / np.sqrt(2 * np.pi), rel=0.35)   # of a normal one, cut at 0
    assert levels[:20].mean() < 0.3 * num_channels * np.sqrt(np.pi) / 2


def test_zero_padding_interpolates_between_the_bins():
    signal = slow_time(1.0, 0.2)[None]
    exact, padded = stft_db(signal, 64, 16, 64, -32, 64), stft_db(signal, 64, 16, 256, -128, 256)
    assert np.allclose(padded[3::4], exact, atol=1e-3)      # both end at the top: bins 31 and 127, 31 is 124 of 256


def test_gain_of_an_image_and_of_a_recording():
    loud = recording(np.concatenate([0.001 * slow_time(1, 2), slow_time(1, 2)]))
    levels = {}
    for gain in ("window", "recording"):
        options = Processing(clutter="none", window_seconds=0.2, gain=gain)
        levels[gain] = make_spectrogram(loud, make_plan(loud, options), options).levels.max(axis=0)
    assert levels["window"][10] == pytest.approx(0, abs=0.5) and levels["window"][-10] == pytest.approx(0, abs=0.5)
    assert levels["recording"][10] == pytest.approx(-60, abs=0.5)
    assert levels["recording"][-10] == pytest.approx(0, abs=0.5)


# ------------------------------------------------------------------------------------------------- clutter

@pytest.mark.parametrize("method", ["mti", "mean"])
def test_what_stands_still_is_removed_from_the_first_chirp_on(method):
    target = recording(np.full(2000, 100 + 50j) + slow_time(1.5, 2.0))
    left = remove_clutter(target.signal, method, target)
    moving = slow_time(1.5, 2.0)
    assert np.abs(left[:, 0, 0] - moving).max() < 1.2       # the filter begins to move when the target does
    assert np.abs(np.abs(left[1000:, 0, 0]) - 1).max() < 0.05
    alone = recording(np.full(2000, 100 + 50j))
    assert np.abs(remove_clutter(alone.signal, method, alone)).max() < 1e-2


def test_mti_is_down_by_3_db_at_its_speed():
    def gain_db(speed):
        target = recording(slow_time(speed, 20.0))
        return 20 * np.log10(np.abs(remove_clutter(target.signal, "mti", target)[10000:]).mean())
    assert gain_db(MTI_MPS) == pytest.approx(-3.01, abs=0.1)
    assert gain_db(MTI_MPS / 4) < -45 and gain_db(4 * MTI_MPS) == pytest.approx(0, abs=0.1)
    assert 0.0075 * 500 == pytest.approx(2 * MTI_MPS * 5.8e9 / C, rel=0.01)      # of the Glasgow data set


def test_frames_lose_their_own_mean():
    signal = np.concatenate([np.full(50, 3.0), np.full(50, 7.0)]) + slow_time(2.0, 0.1)
    target = recording(signal, frame_chirps=50, frame_seconds=0.1)
    left = remove_clutter(target.signal, "mean", target)[:, 0, 0]
    assert np.allclose(left.reshape(2, 50).mean(axis=1), 0, atol=1e-5)


# --------------------------------------------------------------------------------------------------- gates

def test_a_person_is_followed_through_the_gates_and_noise_is_not():
    """From gate 40 to gate 10, by 40 dB weaker at first; the noise is 30 dB below that."""
    rng = np.random.default_rng(0)
    power = 1e-7 * rng.exponential(size=(3000, 64))
    place = np.linspace(40, 10, 3000).round().astype(int)
    power[np.arange(3000), place] += np.geomspace(1e-4, 1, 3000)
    power[:, 0] += 100          # leaks from transmitter to receiver
    assert moving_gates(power, 30).tolist() == list(range(10, 41))
    nothing = 1e-7 * rng.exponential(size=(3000, 64))
    assert len(moving_gates(nothing, 30)) == 1
    assert moving_gates(np.ones((100, 1)), 30).tolist() == [0]


def test_range_m_chooses_gates_and_real_samples_have_half_of_them():
    target = fmcw(chirps(1.0, 0.1, 5.0))
    assert (gates_between(target, 1.0, 2.0) * GATE_M).tolist() == pytest.approx([1.199, 1.399, 1.599, 1.799, 1.999],
                                                                               abs=1e-3)
    half = Recording(target.signal.real, CARRIER_HZ, PRF_HZ, BANDWIDTH_HZ)
    assert gates_between(half, 5.0, 90.0).max() == 31
    for unusable, words in ((target, "expected a range with gates"), (recording(slow_time(1, 1)), "has no range")):
        with pytest.raises(InputError, match=words):
            gates_between(unusable, 1.01, 1.05)


# ------------------------------------------------------------------------------------------------ nonsense

@pytest.mark.parametrize("given, words", [
    ({"floor_db": 10.0}, "floor below the top"), ({"nfft": 5}, "nfft is 5"),
    ({"stft_seconds": 0.001}, "at least 4 chirps"), ({"window_seconds": 0.001}, "at least two spectra"),
    ({"velocity_range_mps": (-4.0, 4.0)}, "at most the 6.25 m/s"), ({"velocity_range_mps": (0.0, 0.0)}, "at least")])
def test_options_that_cannot_be_are_named(given, words):
    with pytest.raises(InputError, match=words):
        make_plan(recording(slow_time(1, 1)), Processing(**given))


def test_a_spectrum_too_coarse_for_a_walk_is_refused_and_one_that_shows_three_bins_is_not():
    """A wrong prf_hz of a radar with frames: 50 chirps at 1 MHz give bins of 31 m/s with nfft 200."""
    signal, frames = slow_time(1, 1).astype(np.complex64)[:, None, None], {"frame_chirps": 50, "frame_seconds": 0.1}
    with pytest.raises(InputError, match="bin is 31.2 m/s wide, too wide .* check carrier_hz and prf_hz"):
        make_plan(Recording(signal, CARRIER_HZ, 1e6, **frames), Processing())
    assert make_plan(Recording(signal, CARRIER_HZ, 2e5, **frames), Processing()).num_bins == 3


@pytest.mark.parametrize("given, words", [({"clutter": "mti"}, "--clutter mean"),
                                          ({"stft_overlap": 0.5}, "a spectrum is that of a frame")])
def test_a_radar_that_rests_allows_less(given, words):
    resting = recording(slow_time(1, 1), frame_chirps=50, frame_seconds=0.1)
    with pytest.raises(InputError, match=words):
        make_plan(resting, Processing(**given))


@pytest.mark.parametrize("clutter, amplitude", [("mean", 5), ("mti", 5), ("none", 0)])
def test_a_recording_without_motion_is_refused(clutter, amplitude):
    still = recording(np.full(3000, amplitude * np.exp(0.3j)))
    options = Processing(clutter=clutter)
    with pytest.raises(InputError, match="nothing moves"):
        make_spectrogram(still, make_plan(still, options), options)
