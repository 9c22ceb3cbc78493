#!/usr/bin/env bash
# Installs voxtal with its development tools into .venv, then passes the tests.
# Usage: launchers/test.sh [PYTEST_OPTION...]    (for example: -m "not slow", tests/cli)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launchers/_environment.sh
. launchers/_environment.sh
prepare_environment dev
use_environment
say "tests"
pytest "$@"
