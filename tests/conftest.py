"""A finished demo of tiny size, made once, for the tests that need trained files."""
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TINY = ["--num_users", "3", "--images_per_user_train", "10", "--dim", "16", "--train_num_steps", "12",
        "--save_and_sample_every", "5", "--log_every", "3", "--num_samples", "4", "--classifier_steps", "4",
        "--classifier_seeds", "2", "--sampling_timesteps", "4", "--no_amp"]
DEMO_SIZE = ["--images_per_user", "20", "--samples_per_user", "3", "--vae_num_steps", "10", "--vae_ch", "8"]


def run_script(*arguments, expect=0):
    """Run a script (or -m module) of the repository in a fresh Python; returns its standard output and error."""
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="session")
def script():
    return run_script


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """(folder, standard output) of `demo.py`."""
    folder = tmp_path_factory.mktemp("whole") / "demo"
    out, _ = run_script("demo.py", "--output_dir", folder, *TINY, *DEMO_SIZE)
    return folder, out


@pytest.fixture
def paths(demo, tmp_path):
    """Options that point the scripts at the demo's data, split, latents and VAE, and at a fresh results folder."""
    folder, _ = demo
    return ["--preset", "cpu-minutes", *TINY, "--data_path", str(folder / "data"),
            "--vae_path", str(folder / "kl_vae_best.pt"), "--results_folder", str(tmp_path / "results"),
            "--latents_cache_folder", str(folder / "latents_cache")]
