#!/usr/bin/env bash
# Builds Horovod against the installed torch and the MPI on PATH, installs it, and checks it with two ranks.
# Usage: hpc/install/horovod.sh [--python PYTHON]    (default: the active environment's, else .venv's, else python3)
# Wheels are kept in $VOXTAL_WHEELS (default: .wheels), by torch, Python, compiler, MPI and GPU. Run it again at any
# time. With a GPU in sight, or HOROVOD_GPU_OPERATIONS=NCCL set, it builds with NCCL; that takes nvcc and nccl.h.
set -euo pipefail
VERSION=0.28.1
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
here=$PWD
cd "$root"
# shellcheck source=launchers/_environment.sh
. launchers/_environment.sh

fail() { # MESSAGE LOG: shows how the log ends
    { tail -n 15 "$2" | cut -c -300; printf 'voxtal: %s\n' "$1"; } >&2
    exit 1
}

python_facts() { # torch's version, Python's tag, whether there is a GPU, cores to build on; or what is missing
    "$python" - <<'END'
import os, sys, sysconfig
try:
    import torch
except ImportError as error:
    sys.exit(f"no torch ({error}). Install voxtal there first (launchers/test.sh does, into .venv), or use --python")
if not os.path.isfile(os.path.join(sysconfig.get_path("include"), "Python.h")):
    sys.exit("no Python.h. Install Python's headers (Debian, Ubuntu: python3-dev), or use a Python that has them")
cores = min(8, len(os.sched_getaffinity(0)))  # the compiler takes up to 1.5 GB on each
print(torch.__version__, sys.implementation.cache_tag, "cuda" if torch.cuda.is_available() else "cpu", cores)
END
}

mpi_name() { # such as openmpi4.1.4, as mpi.h says
    mpicxx -E -dM -x c++ -include mpi.h /dev/null | tr -d '"' | awk '{ value[$2] = $3 } END {
        if ("OMPI_MAJOR_VERSION" in value) printf "openmpi%s.%s.%s\n", value["OMPI_MAJOR_VERSION"],
            value["OMPI_MINOR_VERSION"], value["OMPI_RELEASE_VERSION"]
        else if ("I_MPI_VERSION" in value) print "intelmpi" value["I_MPI_VERSION"]
        else if ("MPICH_VERSION" in value) print "mpich" value["MPICH_VERSION"]
        else exit 1 }'
}

has_nccl() { nvcc -E -x cu ${HOROVOD_NCCL_HOME:+"-I$HOROVOD_NCCL_HOME/include"} -include nccl.h /dev/null; }

WHOLE='import json, torch, horovod, importlib.metadata, pathlib
assert importlib.metadata.files("horovod"), "the installation was interrupted"
built_for = json.loads(pathlib.Path(horovod.__file__).with_name("metadata.json").read_text())["pytorch"]
assert built_for == torch.__version__, f"Horovod was built for torch {built_for}, this is {torch.__version__}"'
ALLREDUCE='import torch, horovod.torch as hvd
hvd.init()
assert hvd.size() == 2, f"{hvd.size()} rank instead of 2"
assert hvd.allreduce(torch.ones(3), op=hvd.Sum).tolist() == [2, 2, 2]'

works() { # whether Horovod is whole and for this torch, has what it should, and two ranks can add
    local feature features
    "$python" -c "$WHOLE" && features=$(horovodrun --check-build) || return 1
    for feature in PyTorch MPI Gloo $nccl; do
        case $features in *"[X] $feature"*) ;; *) printf '%s\n' "$features" "It lacks $feature."; return 1 ;; esac
    done
    echo "Two ranks under mpirun:"
    HOROVOD_CONTROLLER=mpi HOROVOD_CPU_OPERATIONS=mpi timeout 120 mpirun -n 2 "$python" -c "$ALLREDUCE" || return 1
    echo "Two ranks under horovodrun --gloo:"
    timeout 120 horovodrun --gloo -np 2 "$python" -c "$ALLREDUCE"
} </dev/null

# shellcheck disable=SC2030,SC2031  # PATH is meant to change for the build alone
build() ( # puts the wheel into $wheels, whole or not at all; joined by && because set -e is off where its end is tested
    set -x
    "$python" -m pip install --target "$work/tools" 'setuptools<81' wheel 'cmake<4' packaging &&
        export PYTHONPATH="$work/tools" PATH="$work/tools/bin:$PATH" MAKEFLAGS="${MAKEFLAGS:--j$cores}" &&
        "$python" -m pip download --no-deps --no-build-isolation --no-binary=horovod -d "$work" "horovod==$VERSION" &&
        tar xzf "$work/horovod-$VERSION.tar.gz" -C "$work" &&
        cd "$work/horovod-$VERSION" &&
        sed -i 's/CMAKE_CXX_STANDARD 14/CMAKE_CXX_STANDARD 17/' CMakeLists.txt horovod/torch/CMakeLists.txt && # torch's
        sed -i "s/'RelWithDebInfo'/'Release'/" setup.py && # symbols for a debugger take longer than the rest
        export HOROVOD_WITH_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1 &&
        export HOROVOD_WITH_MPI=1 HOROVOD_WITH_GLOO=1 ${nccl:+HOROVOD_GPU_OPERATIONS=NCCL} &&
        "$python" -m pip wheel -v --use-pep517 --no-deps --no-build-isolation -w "$work/wheel" . &&
        cp "$work/wheel/"*.whl "$wheels/.new" && # beside the others first: it is whole when it has its name
        mv "$wheels/.new" "$wheels/$(basename "$work/wheel/"*.whl)"
)

case $#${1:-} in
    0) python=${VIRTUAL_ENV:-$root/.venv}/bin/python; [ -x "$python" ] || python=python3 ;;
    2--python) python=$2 ;;
    *) stop "wrong use. Write: hpc/install/horovod.sh [--python PYTHON]" ;;
esac
case $python in /*) ;; */*) python=$here/$python ;; esac
python=$(command -v "$python") || stop "there is no Python ${2:-here}. Name one: hpc/install/horovod.sh --python PYTHON"
# shellcheck disable=SC2031
PATH=$(dirname "$python"):$PATH # for horovodrun
mpi_settings
export OMP_NUM_THREADS=1
facts=$(python_facts 2>&1) || stop "$python: ${facts##*$'\n'}"
read -r torch tag device cores <<<"${facts##*$'\n'}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

nccl=${HOROVOD_GPU_OPERATIONS:-}
unset HOROVOD_GPU_OPERATIONS # a build without NCCL must not see it
if [ "$device" = cuda ]; then nccl=NCCL; fi
if [ -n "$nccl" ] && ! has_nccl >"$work/log" 2>&1; then
    say "a GPU, but no nvcc that finds nccl.h: Horovod gets no NCCL, and GPUs will talk through host memory." \
        "Load the modules of CUDA and NCCL (or set HOROVOD_NCCL_HOME) and run this again to mend it"
    nccl=
fi
if works >"$work/log" 2>&1; then
    say "Horovod $VERSION is installed for torch $torch, and works"
    exit
fi
say "Horovod does not work yet: $(grep . "$work/log" | tail -n 1)"

command -v mpicxx >/dev/null ||
    stop "no mpicxx. Install an MPI with its compiler (Debian, Ubuntu: libopenmpi-dev), or load your site's MPI module"
compiler=${CXX:-c++}
command -v "$compiler" >/dev/null ||
    stop "no C++ compiler $compiler. Install one (Debian, Ubuntu: g++), load your site's compiler module, or set CXX"
command -v make >/dev/null || stop "no make. Install it (Debian, Ubuntu: make)"
mpi=$(mpi_name 2>"$work/log") || stop "mpicxx finds no mpi.h of Open MPI, MPICH or Intel MPI: $(tail -n 1 "$work/log")"
compiled_by=$("$compiler" -E -dM -x c++ /dev/null | sed -n 's/^#define __VERSION__ //p' | tr -cd '[:alnum:].')
built_for=torch$torch-$tag-$(uname -m)-$(basename "$compiler")$compiled_by-$mpi-${nccl:-cpu}
mkdir -p "${VOXTAL_WHEELS:-.wheels}/$built_for"
wheels=$(cd "${VOXTAL_WHEELS:-.wheels}/$built_for" && pwd)
if compgen -G "$wheels/horovod-$VERSION-*.whl" >/dev/null; then
    say "Horovod $VERSION: built before, for torch $torch, $mpi and $compiler $compiled_by"
else
    say "Horovod $VERSION: building it for torch $torch, $mpi and $compiler $compiled_by (minutes; $wheels/build.log)"
    build >"$wheels/build.log" 2>&1 || fail "the build failed. All of it is in $wheels/build.log" "$wheels/build.log"
fi
say "Horovod $VERSION: installing it beside $python"
# --ignore-installed mends an installation that was cut short; the second call brings what Horovod itself needs
"$python" -m pip install -q --no-deps --ignore-installed "$wheels/horovod-$VERSION"-*.whl
"$python" -m pip install -q "$wheels/horovod-$VERSION"-*.whl
works >"$wheels/check.log" 2>&1 ||
    fail "Horovod is built and installed, but does not work ($wheels/check.log). Where mpirun is not allowed, run this
again inside a job. Where each rank counts one rank, mpirun and mpicxx are of different MPIs: load one of them" \
        "$wheels/check.log"
say "Horovod $VERSION works: two ranks under mpirun, two under horovodrun"
