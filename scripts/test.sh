#!/usr/bin/env bash
# Style, types, the documentation's links and all tests, on a fresh machine. Options go to pytest; --torch 2.7.1 before
# them runs the tests on that PyTorch.
set -euo pipefail
cd "$(dirname "$0")/.."
torch=
if [ "${1:-}" = --torch ]; then
    torch="${2:-}"
    [[ "$torch" =~ ^[0-9]+(\.[0-9]+)+$ ]] || { echo "error: --torch '$torch'; expected a version such as 2.7.1" >&2; exit 2; }
    shift 2
fi
. scripts/environment.sh "[test,docs]" "$torch"
ruff check
mypy
NO_MKDOCS_2_WARNING=1 mkdocs build --strict     # breaks on a dead link
# A thread each: networks as small as those of the tests gain nothing from more, and processes of their own do.
OMP_NUM_THREADS=1 exec python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile "$@"
