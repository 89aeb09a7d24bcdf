"""What the README and setup.py say is so."""
import re
import subprocess
import sys
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

import pytest

from groundwork.limits import to_plain
from train_latent_cfg import Config

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def test_config_table_is_up_to_date():
    printed = subprocess.run([sys.executable, ROOT / "scripts" / "config_table.py"], capture_output=True, text=True)
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert printed.stdout.strip() in page, "put the output of python scripts/config_table.py into docs/configuration.md"
    assert all(f"| `{field.name}` |" in printed.stdout for field in fields(Config))


def test_defaults_are_the_agreed_ones():
    agreed = dict(
        vae_path="/kaggle/input/kl-vae-best-pt/kl_vae_best.pt", num_users=0, images_per_user_train=None, image_size=0,
        data_path="/kaggle/input/organized-gait-dataset/Normal_line", results_folder="results", latent_size=0,
        latents_cache_folder="latents_cache", latent_channels=0, seed=42, dim=48, dim_mults=[1, 2, 4], attn_dim_head=32,
        attn_heads=4, cond_drop_prob=0.5, timesteps=1000, objective="pred_v", beta_schedule="cosine",
        min_snr_loss_weight=True, min_snr_gamma=5, auto_normalize=False, train_batch_size=8,
        gradient_accumulate_every=2, train_lr=1e-4, adam_betas=[0.9, 0.99], max_grad_norm=1.0,
        train_num_steps=150000, ema_decay=0.9995,
        ema_update_every=10, amp=True, save_and_sample_every=2000, num_samples=16, standardize_latents=True,
        split_strategy=None, split_fold=None, split_guard=None, fit=None, sampler="dpmpp_2m", sampling_timesteps=20)
    plain = to_plain(Config())
    assert {name: plain[name] for name in agreed} == agreed


def test_the_readme_is_read_in_one_sitting():
    assert len(README.splitlines()) <= 220


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_links_or_runs_exists(page):
    """mkdocs looks at the links between pages; this looks at scripts and modules, too."""
    text = page.read_text()
    for name in re.findall(r"\]\((?!\w+:)([^)#]+)", text):
        assert (page.parent / name).exists(), name
    if page.name == "log.md":       # its commands are those of older commits
        return
    for name in re.findall(r"python (\w+(?:/\w+)*\.py)", text) + re.findall(r"bash (scripts/\w+\.sh)", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"python -m ((?:microdoppler|vae|benchmarks|scripts)[\w.]*)", text):
        assert find_spec(name), name


def test_nothing_is_left_to_be_filled_in():
    assert not re.findall(r"@@|TODO|XXX", "".join(page.read_text() for page in PAGES))


def test_dependencies_have_lower_bounds_only():
    requirements = re.findall(r'"([\w-]+)([<>=!~]+)[\d.]+"', (ROOT / "setup.py").read_text())
    assert len(requirements) > 8 and {operator for _, operator in requirements} == {">="}
