#!/usr/bin/env bash
# All that installing needs, as wheels in a folder (default: wheels), for a machine without internet, such as a notebook:
# upload it as a data set.  bash scripts/wheels.sh [--torch 2.7.1] [--installed list.txt] [folder]
# PyTorch is left out, as the machine has its own; --torch 2.7.1, which computes on a P100, puts that one in, with its
# CUDA libraries. --installed leaves out the packages that a file names, one a line: the output of pip freeze there.
# Wheels are for the Python that this runs with: best run it in the same notebook with internet on.
set -euo pipefail
torch= installed=/dev/null
while [[ "${1:-}" == --* ]]; do
    case "$1" in
        --torch) torch="${2:?expected a version after --torch, such as 2.7.1}" ;;
        --installed) installed="$(realpath "${2:?expected a file after --installed}")" ;;
        *) echo "error: $1 is unknown; expected --torch or --installed" >&2; exit 2 ;;
    esac
    shift 2
done
[ -r "$installed" ] || { echo "error: $installed does not exist; expected the output of pip freeze" >&2; exit 2; }
mkdir -p "${1:-wheels}"
folder="$(cd "${1:-wheels}" && pwd)"
cd "$(dirname "$0")/.."

python=$(command -v python || command -v python3)
found=$(mktemp -d)
trap 'rm -rf "$found"' EXIT
echo "looking up what is needed (a minute)"
"$python" -m pip install --quiet --disable-pip-version-check --dry-run --ignore-installed --report "$found/report.json" \
    . "setuptools>=64" ${torch:+"torch==$torch" torchvision}
"$python" - "$found/report.json" "$torch" "$installed" > "$found/requirements.txt" <<'PYTHON'
import json
import re
import sys
from pathlib import Path


def normal(name):       # the Python packaging guide, "Normalized names"
    return re.sub(r"[-_.]+", "-", name).lower()


report, torch, installed = sys.argv[1:]
of_torch = ("torch", "torchvision", "triton", "nvidia-", "cuda-")
there = {normal(re.split(r"[\s=@;\[]", line)[0]) for line in Path(installed).read_text().splitlines()}
for package in json.loads(Path(report).read_text())["install"]:
    name, version = package["metadata"]["name"], package["metadata"]["version"]
    is_ours = "dir_info" in package["download_info"]      # a folder, which the notebook has
    if not is_ours and (torch or not name.startswith(of_torch)) and normal(name) not in there:
        print(f"{name}=={version}")
PYTHON
"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$folder" -r "$found/requirements.txt"
echo "$(wc -l < "$found/requirements.txt") wheels for $("$python" --version), $(du -sh "$folder" | cut -f1): $folder"
echo "without internet: pip install --no-index --find-links <folder>${torch:+ \"torch==$torch\" torchvision} -e ."
