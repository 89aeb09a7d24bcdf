#!/usr/bin/env bash
# The whole way on simulated radar data, on a fresh machine. Options go to demo.py (--help shows them).
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh ""     # else it would take the demo's options for its own
exec python demo.py "$@"
