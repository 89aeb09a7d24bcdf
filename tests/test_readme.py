"""What the README and setup.py say is so."""
import ast
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

from microdoppler import API
from train_latent_cfg import Config, config_to_plain

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_config_table_is_up_to_date():
    printed = subprocess.run([sys.executable, ROOT / "scripts" / "config_table.py"], capture_output=True, text=True)
    assert printed.stdout.strip() in README, "put the output of python scripts/config_table.py into README.md"
    assert all(f"| `{field.name}` |" in printed.stdout for field in fields(Config))


def test_defaults_are_the_agreed_ones():
    agreed = dict(
        vae_path="/kaggle/input/kl-vae-best-pt/kl_vae_best.pt", num_users=31, images_per_user_train=50, image_size=256,
        data_path="/kaggle/input/organized-gait-dataset/Normal_line", results_folder="results", latent_size=32,
        latents_cache_folder="latents_cache", latent_channels=4, seed=42, dim=48, dim_mults=[1, 2, 4], attn_dim_head=32,
        attn_heads=4, cond_drop_prob=0.5, timesteps=1000, objective="pred_v", beta_schedule="cosine",
        min_snr_loss_weight=True, min_snr_gamma=5, auto_normalize=False, train_batch_size=8,
        gradient_accumulate_every=2, train_lr=1e-4, adam_betas=[0.9, 0.99], max_grad_norm=1.0,
        train_num_steps=150000, ema_decay=0.9995,
        ema_update_every=10, amp=True, save_and_sample_every=2000, num_samples=16, standardize_latents=True,
        split_strategy="contiguous", split_guard=4, sampler="dpmpp_2m", sampling_timesteps=20)
    plain = config_to_plain(Config())
    assert {name: plain[name] for name in agreed} == agreed


def test_every_file_the_readme_links_or_runs_exists():
    for name in re.findall(r"\]\(([^)#:]+)\)", README) + re.findall(r"python (\w+\.py)", README) \
            + re.findall(r"bash (scripts/\w+\.sh)", README):
        assert (ROOT / name).exists(), name


def test_nothing_is_left_to_be_filled_in():
    assert not re.findall(r"@@|TODO|XXX", "".join(page.read_text() for page in ROOT.glob("*.md")))


def imported_by(path):
    """The top-level modules that a file imports."""
    return {name.split(".")[0] for node in ast.walk(ast.parse(path.read_text()))
            for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import)
                         else [node.module or ""] if isinstance(node, ast.ImportFrom) else [])}


def test_packages_keep_apart():
    """The three packages do not import each other, nor any script; only scripts put them together. Microdoppler's API
    names what lives with the scripts, and is looked up there when it is asked for: in its __init__ and nowhere else."""
    packages = {"denoising_diffusion_pytorch", "vae", "microdoppler"}
    scripts = {path.stem for path in ROOT.glob("*.py")}
    for package in packages | {"groundwork"}:
        for path in (ROOT / package).glob("*.py"):
            imported = imported_by(path)
            assert not imported & ((packages | scripts) - {package}), path
            assert "importlib" not in imported or path == ROOT / "microdoppler" / "__init__.py", path


def test_the_api_is_installed_with_all_it_imports():
    scripts, waiting, needed = {path.stem for path in ROOT.glob("*.py")}, {module for module, _ in API.values()}, set()
    while waiting:
        needed |= waiting
        waiting = {name for module in waiting for name in imported_by(ROOT / f"{module}.py") & scripts} - needed
    installed = re.search(r"py_modules=\[(.*?)\]", (ROOT / "setup.py").read_text(), re.DOTALL)[1]
    assert set(re.findall(r'"(\w+)"', installed)) == needed


def test_a_package_is_imported_without_the_scripts():
    code = "import sys, microdoppler; print({'torch', 'generation', 'train_latent_cfg'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "set()\n"


def test_dependencies_have_lower_bounds_only():
    requirements = re.findall(r'"([\w-]+)([<>=!~]+)[\d.]+"', (ROOT / "setup.py").read_text())
    assert len(requirements) > 8 and {operator for _, operator in requirements} == {">="}
