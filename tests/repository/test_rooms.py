"""Who may import whom: the packages keep apart, and the rooms of microdoppler stand in an order."""
import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from setuptools import find_packages

from microdoppler import API

ROOT = Path(__file__).parents[2]
PACKAGES = {"denoising_diffusion_pytorch", "vae", "microdoppler", "groundwork"}
SCRIPTS = {path.stem for path in ROOT.glob("*.py")}
ROOMS = ["radar", "figures", "simulate", "data", "convert", "study", "fidelity", "watch",
         "pipeline"]        # from the ground floor up
FILES = [path for package in sorted(PACKAGES) for path in (ROOT / package).rglob("*.py")]


def imported_by(path, in_functions=True):
    """The modules that a file imports, as in "microdoppler.data.split"; without in_functions when it is loaded."""
    found = set()
    waiting = list(ast.parse(path.read_text()).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif in_functions or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            waiting += ast.iter_child_nodes(node)
    return found


def packages_of(modules):
    return {name.split(".")[0] for name in modules}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_packages_keep_apart(path):
    """The three packages do not import each other, nor any script. The pipeline alone puts them together, and knows the
    constants. Microdoppler's __init__ looks names up elsewhere when they are asked for, and nothing else does that."""
    own, *rooms = path.relative_to(ROOT).parts
    imported = packages_of(imported_by(path))
    if rooms[0] == "pipeline":
        assert not imported & (SCRIPTS - {"train_latent_cfg"})
    elif own == "groundwork":
        assert not imported & ((PACKAGES | SCRIPTS) - {"groundwork"})
    else:
        assert not imported & ((PACKAGES | SCRIPTS) - {own, "groundwork"})
    assert "importlib" not in imported or path in {ROOT / "microdoppler" / "__init__.py",
                                                   ROOT / "microdoppler" / "pipeline" / "recording.py"}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_those_below_it(room):
    above = ROOMS[ROOMS.index(room) + 1:]
    for path in (ROOT / "microdoppler" / room).glob("*.py"):
        used = {name.split(".")[1] for name in imported_by(path) if name.startswith("microdoppler.")}
        assert not used & set(above), f"{path} imports {used & set(above)}"


def test_every_room_has_its_floor():
    assert {path.parent.name for path in (ROOT / "microdoppler").glob("*/__init__.py")} == set(ROOMS)


def test_the_constants_import_nothing_that_needs_them():
    """One import, in a function, is the exception: that of the training which the script starts."""
    path = ROOT / "train_latent_cfg.py"
    assert packages_of(imported_by(path, in_functions=False)) & PACKAGES == {"groundwork"}
    assert re.findall(r"^ +from (\S+) import", path.read_text(), re.MULTILINE) == ["microdoppler.pipeline.training"]


def test_no_file_is_imported_by_one_that_it_imports():
    """No circle of imports, among the files that are installed and the scripts."""
    files = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
             for path in [*FILES, *ROOT.glob("*.py")]}
    uses = {name: imported_by(path, in_functions=path.stem != "train_latent_cfg") & files.keys() - {name}
            for name, path in files.items()}
    while free := {name for name, used in uses.items() if not used & uses.keys()}:
        uses = {name: used for name, used in uses.items() if name not in free}
    assert not uses


def test_no_room_is_too_large_to_be_read():
    assert not [f"{path}: {count}" for path in [*FILES, *ROOT.glob("*.py")]
                if (count := len(path.read_text().splitlines())) > 350]


def test_scripts_are_short():
    lengths = {path.stem: len(path.read_text().splitlines()) for path in ROOT.glob("*.py")}
    assert lengths.pop("train_latent_cfg") < 180 and max(lengths.values()) < 100


def test_what_is_installed_has_no_name_that_a_users_own_file_may_have(tmp_path):
    """Files called as the scripts are, in the user's working directory, do not come between the API and its modules."""
    for name in SCRIPTS - {"train_latent_cfg"}:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a file of the user')")
    names = ", ".join(API)
    done = subprocess.run([sys.executable, "-c", f"from microdoppler import {names}"], cwd=tmp_path,
                          env={"PYTHONPATH": f"{tmp_path}:{ROOT}"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    modules = re.search(r"py_modules=\[(.*?)\]", (ROOT / "setup.py").read_text(), re.DOTALL)[1]
    assert re.findall(r'"(\w+)"', modules) == ["train_latent_cfg"]


@pytest.mark.parametrize("file, remedy", [
    ("vae.py", "rename it, or"), ("groundwork/__init__.py", "rename it, or"),
    ("site-packages/denoising_diffusion_pytorch/__init__.py", "pip uninstall denoising-diffusion-pytorch, or")])
def test_another_module_under_the_name_of_one_of_ours_is_named(tmp_path, file, remedy):
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("raise SystemExit('this is not what was asked for')")
    folder = path.parents[path.stem == "__init__"]
    done = subprocess.run([sys.executable, "-c", "from microdoppler import generate"], cwd=tmp_path,
                          env={"PYTHONPATH": f"{folder}:{ROOT}"}, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert f"{path} is not the " in last and f"{remedy} run from {ROOT}; then restart Python" in last


def test_the_backend_of_a_notebook_does_not_stop_a_program_in_another_environment(tmp_path):
    """The kernel names it for the programs that it starts, too. -S: without the packages of this environment, as in one
    that lacks the backend; with the backend it stays."""
    code = "import os, microdoppler; print(os.environ['MPLBACKEND'])"
    for name, expected in (("module://matplotlib_inline.backend_inline", "Agg"), ("TkAgg", "TkAgg"),
                           ("module://json.decoder", "module://json.decoder")):
        done = subprocess.run([sys.executable, "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True,
                              env={"PYTHONPATH": str(ROOT), "MPLBACKEND": name})
        assert done.stdout == f"{expected}\n", done.stderr


def test_every_room_is_installed():
    included = re.search(r"find_packages\(include=\[(.*?)\]\)", (ROOT / "setup.py").read_text())[1]
    installed = find_packages(str(ROOT), include=re.findall(r'"([^"]+)"', included))
    assert set(installed) == PACKAGES | {f"microdoppler.{room}" for room in ROOMS}


def test_every_name_of_the_api_comes_from_where_it_says():
    assert all(getattr(import_module(module), name).__module__ == module for name, module in API.items())


def test_a_package_is_imported_without_the_pipeline():
    code = "import sys, microdoppler; print({'torch', 'microdoppler.pipeline', 'train_latent_cfg'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "set()\n"
