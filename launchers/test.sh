#!/usr/bin/env bash
# Installs voxtal with its development tools into .venv, and Horovod where there is a compiler, then passes the tests.
# Usage: launchers/test.sh [PYTEST_OPTION...]    (for example: -m "not slow", tests/cli)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launchers/_environment.sh
. launchers/_environment.sh
prepare_environment dev,horovod
use_environment
hpc/install/horovod.sh --python .venv/bin/python || # 2: something that it builds with is not on this machine
    { [ $? = 2 ] && say "no Horovod (see above), so its tests are skipped"; }
say "tests"
pytest "$@"
