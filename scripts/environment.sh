# Sourced by the scripts beside it, from the repository's root: use the active environment, or make and activate .venv,
# and install the package there. $1: extras, as in ".[test]" without the dot; $2: a version of PyTorch, which gets an
# environment of its own, .venv-torch-<version>, and the torchvision that belongs to it.
if [ -n "${2:-}" ] || [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
    venv=".venv${2:+-torch-$2}"
    if [ ! -x "$venv/bin/python" ]; then
        python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
            echo "error: $(python3 --version 2>&1); expected Python 3.10 or newer" >&2; exit 2; }
        echo "making $venv"
        rm -rf "$venv" && python3 -m venv "$venv"
    fi
    . "$venv/bin/activate"
fi
echo "installing into $(python -c 'import sys; print(sys.prefix)') (PyTorch is large; the first time takes minutes)"
python -m pip install --quiet --disable-pip-version-check -e ".${1:-}" ${2:+"torch==$2"}
