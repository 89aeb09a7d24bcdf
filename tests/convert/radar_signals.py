"""Signals of point targets, by the formulas, and files of every format that hold them, by independent writers."""
import h5py
import numpy as np
import scipy

C = 299_792_458.0
CARRIER_HZ, PRF_HZ, BANDWIDTH_HZ = 24e9, 1000.0, 750e6      # a gate is C / 2 B = 0.1999 m; ±3.12 m/s


def slow_time(speed_mps: float, seconds: float, range_m: float = 5.0, carrier_hz: float = CARRIER_HZ,
              prf_hz: float = PRF_HZ) -> np.ndarray:
    """exp(-4πi R(t) / λ) of a point that approaches with a speed: complex128 (chirps,)."""
    ranges = range_m - speed_mps * np.arange(round(seconds * prf_hz)) / prf_hz
    return np.exp(-4j * np.pi * ranges * carrier_hz / C)


def chirps(speed_mps: float, seconds: float, range_m: float, samples: int = 64) -> np.ndarray:
    """The beat of rising chirps, mixed as transmitted times conjugate of received: complex128 (chirps, samples).

    Its phase is 2π (f_c + B (n / samples - 1/2)) τ for the delay τ = 2 R / c: the carrier is the middle of the sweep.
    """
    delays = 2 * (range_m - speed_mps * np.arange(round(seconds * PRF_HZ)) / PRF_HZ) / C
    return np.exp(2j * np.pi * (CARRIER_HZ + BANDWIDTH_HZ * (np.arange(samples) / samples - 0.5)) * delays[:, None])


def write_glasgow(path, beat, carrier_hz=CARRIER_HZ, bandwidth_hz=BANDWIDTH_HZ, prf_hz=PRF_HZ):
    lines = [f"{carrier_hz:.0f}", f"{1000 / prf_hz:g}", f"{beat.shape[1]}", f"{bandwidth_hz:.0f}"]
    path.write_text("\n".join([*lines, *(f"{value.real:.6g}{value.imag:+.6g}i" for value in beat.ravel())]) + "\n")


def write_dca1000(path, beat):
    """beat: (chirps, samples), as one receiver of an xWR16xx: I I Q Q."""
    parts = np.stack([beat.real, beat.imag], axis=1).reshape(len(beat), 2, -1, 2)      # chirp, I or Q, pair, sample
    (1000 * parts).round().astype("<i2").swapaxes(1, 2).tofile(path)


def write_infineon(path, frames, rest_frames=0):
    """frames: (n, samples) complex, each a burst of slow-time samples at PRF_HZ."""
    header = {"Version": 1.0, "Num_Tx_Antennas": 1, "Num_Rx_Antennas": 1, "Are_Rx_Antennas_Interleaved": 0,
              "Modulation_Type_Enum": 0, "Lower_RF_Frequency_kHz": CARRIER_HZ / 1e3,
              "Upper_RF_Frequency_kHz": CARRIER_HZ / 1e3 + 2e5, "Sampling_Frequency_kHz": PRF_HZ / 1e3,
              "Data_Format_Enum": 1, "Chirps_per_Frame": 1, "Samples_per_Chirp": frames.shape[1],
              "Frame_Period_sec": frames.shape[1] / PRF_HZ * (1 + rest_frames)}
    lines = ["IFRT", "### Header must not be changed.", *(f"# {name} = {value:.12g}" for name, value in header.items())]
    for number, frame in enumerate(frames, start=33):
        lines += ["", f"# Frame_Number = {number}", *(f"{value:.8f}" for value in 0.5 + frame.real / 4),
                  *(f"{value:.8f}" for value in 0.5 + frame.imag / 4)]
    path.write_text("\n".join(lines) + "\n")


def write_mat73(path, **arrays):
    """As MATLAB does: a user block of 512 bytes, axes reversed, complex numbers as real and imag."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            stored = array.T
            if np.iscomplexobj(array):
                stored = np.empty(array.T.shape, [("real", "f8"), ("imag", "f8")])
                stored["real"], stored["imag"] = array.T.real, array.T.imag
            file.create_dataset(name, data=stored).attrs["MATLAB_class"] = np.bytes_("double")
    with open(path, "rb+") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Thu Nov 26 2026 HDF5 schema 1.00 .".ljust(124))
        file.write(b"\x00\x02IM")


def write_all_formats(folder, speed_mps, seconds):
    """A recording of one point in every format, in a folder per format. Returns the options that each one needs."""
    signal, beat = slow_time(speed_mps, seconds), chirps(speed_mps, seconds, 4.0)
    pair = np.stack([signal.real, signal.imag], axis=1)
    for name in ("dat", "bin", "mat5", "mat73", "npy", "npz", "csv", "wav", "infineon"):
        (folder / name / "walker").mkdir(parents=True)
    write_glasgow(folder / "dat" / "walker" / "a.dat", beat)
    write_dca1000(folder / "bin" / "walker" / "a.bin", beat)
    scipy.io.savemat(folder / "mat5" / "walker" / "a.mat", {"iq": signal, "seconds": np.arange(len(signal)) / PRF_HZ})
    write_mat73(folder / "mat73" / "walker" / "a.mat", beat=beat[:, :, None])
    np.save(folder / "npy" / "walker" / "a.npy", beat)
    np.savez(folder / "npz" / "walker" / "a.npz", I=signal.real, Q=signal.imag)
    np.savetxt(folder / "csv" / "walker" / "a.csv", pair, delimiter=",", header="I,Q", comments="")
    scipy.io.wavfile.write(folder / "wav" / "walker" / "a.wav", round(PRF_HZ), (20000 * pair).astype(np.int16))
    write_infineon(folder / "infineon" / "walker" / "a.raw.txt", signal[:len(signal) // 50 * 50].reshape(-1, 50))
    carrier = {"carrier_hz": CARRIER_HZ}
    fmcw = {**carrier, "prf_hz": PRF_HZ, "bandwidth_hz": BANDWIDTH_HZ}
    return {"dat": {}, "bin": {**fmcw, "samples_per_chirp": 64, "receivers": 1, "device": "xwr16xx"},
            "mat5": {**carrier, "prf_hz": PRF_HZ}, "mat73": fmcw, "npy": fmcw, "npz": {**carrier, "prf_hz": PRF_HZ},
            "csv": {**carrier, "prf_hz": PRF_HZ}, "wav": carrier, "infineon": {}}
