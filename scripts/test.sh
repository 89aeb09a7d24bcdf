#!/usr/bin/env bash
# All tests, on a fresh machine. Options go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh "[test]"
ruff check
mypy
exec python -m pytest "$@"
