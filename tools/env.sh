#!/usr/bin/env bash
# Make the project's Python environment when it is missing or outdated, then run a
# command in it:
#
#     bash tools/env.sh [COMMAND ...]
#
# Settings, all optional, are environment variables:
#     PYTHON        the interpreter, a Python 3.11 (python3.11, then python3)
#     FRSKD_VENV    folder of the environment (.venv in the checkout)
#     FORCE_CUDA=1  compile mmcv's CUDA operators although no GPU is seen
#     MAX_JOBS      compilers to run at once (one a core)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${FRSKD_VENV:-$root/.venv}
python=$venv/bin/python
libraries=$(grep '^onedl' "$root/requirements/maintained.txt")
mmcv=$(grep mmcv <<<"$libraries")
again='Then run the same command again: it goes on where it stopped.'

say() { printf '\n==> %s\n' "$*" >&2; }

fail() { # LINES ...
    printf '\nerror: %s\n' "$1" >&2
    shift
    [ $# -eq 0 ] || printf '       %s\n' "$@" >&2
    exit 1
}

version_of() { # INTERPRETER
    "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null
}

choose_interpreter() {
    local candidates=(python3.11 python3) version
    [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
    for interpreter in "${candidates[@]}"; do
        version=$(version_of "$interpreter") || continue
        case $version in 3.11.*) return ;; esac
    done
    fail "Python 3.11 is needed; $interpreter is ${version:-not there or broken}." \
        'Debian and Ubuntu: apt install python3.11 python3.11-venv python3.11-dev' \
        'Or name one that you have: make PYTHON=/path/to/python3.11 ...'
}

# What the environment is made from.
wanted_state() {
    version_of "$interpreter"
    cat "$root"/requirements/*.txt | cksum
}

make_venv() {
    if [ -e "$venv" ] && [ ! -e "$venv/pyvenv.cfg" ] && [ -n "$(ls -A "$venv")" ]; then
        fail "$venv is not a Python environment." \
            'Move it away, or name another folder in FRSKD_VENV.'
    fi
    [ "$(version_of "$python")" != "$(version_of "$interpreter")" ] || return 0
    say "Making $venv with Python $(version_of "$interpreter")"
    "$interpreter" -m venv --clear "$venv" >&2 ||
        fail "$interpreter could not make a virtual environment." \
            'Debian and Ubuntu: apt install python3.11-venv'
}

install() { # WHAT PIP_ARGUMENTS ...
    local what=$1
    shift
    "$python" -m pip --disable-pip-version-check install \
        --constraint "$root/requirements/constraints.txt" "$@" >&2 ||
        fail "$what could not be installed; pip says above why." \
            'No connection or a time-out: check the network, or name a mirror in' \
            'PIP_INDEX_URL. No space left: about 10 GB are needed.' "$again"
}

# Whether mmcv's CUDA operators can be compiled, and the reason in a few words.
has_cuda_toolkit() {
    "$python" - <<'PYTHON'
import os
import re
import subprocess
import sys

import torch
from torch.utils.cpp_extension import CUDA_HOME

wanted = torch.version.cuda
if wanted is None or not (torch.cuda.is_available() or os.getenv('FORCE_CUDA') == '1'):
    print('No CUDA GPU was found')
    sys.exit(1)
nvcc = os.path.join(CUDA_HOME or '', 'bin', 'nvcc')
found = 'none'
if os.path.exists(nvcc):
    answer = subprocess.run([nvcc, '--version'], capture_output=True, text=True).stdout
    found = ''.join(re.findall(r'release ([\d.]+)', answer))
if found.split('.')[0] != wanted.split('.')[0]:
    print(f'A GPU, but no CUDA toolkit {wanted} was found (found: {found})')
    sys.exit(1)
print(f'A GPU and CUDA toolkit {found} were found')
PYTHON
}

# mmcv without its operators installs silently and fails later, so they are loaded.
check_operators() {
    "$python" -c 'from mmcv.ops import get_compiling_cuda_version, nms
print(get_compiling_cuda_version())'
}

install_mmcv() {
    local reason kind='CPU' options=()
    if reason=$(has_cuda_toolkit 2>/dev/null); then
        export FORCE_CUDA=1
        kind='CPU and the GPU'
        # A wheel that pip kept or finds elsewhere may be one for the CPU alone.
        options=(--no-cache-dir --no-binary "${mmcv%%==*}")
    else
        unset FORCE_CUDA
        export CUDA_VISIBLE_DEVICES=-1 # a visible GPU makes the build ask for nvcc
        say "Looking for a prebuilt wheel of $mmcv"
        if "$python" -m pip --disable-pip-version-check install --no-deps \
            --only-binary "${mmcv%%==*}" "$mmcv" >/dev/null 2>&1 &&
            check_operators >/dev/null 2>&1; then
            return
        fi
    fi
    export MAX_JOBS=${MAX_JOBS:-$(getconf _NPROCESSORS_ONLN)} MMCV_WITH_OPS=1
    say "$reason." "Compiling mmcv's operators for the $kind, $MAX_JOBS file(s) at a" \
        'time. On 2 cores it takes about 14 minutes for the CPU, and longer for a GPU.' \
        "Started at $(date +%H:%M)."
    "$python" -m pip --disable-pip-version-check --verbose install --no-deps \
        --force-reinstall --no-build-isolation "${options[@]}" "$mmcv" 2>&1 |
        tee "$venv/mmcv-build.log" | show_progress ||
        fail "mmcv could not be built; the whole log is $venv/mmcv-build.log" \
            "$(build_advice)" "$again"
    check_operators >/dev/null ||
        fail 'mmcv was installed, but its operators cannot be loaded (see above).' \
            'pip may have taken up again what it built for another torch. Remove that:' \
            "$python -m pip cache remove '${mmcv%%==*}'" "$again"
}

# The compilers' command lines are long: show ninja's [done/all] and the errors.
show_progress() {
    grep --line-buffered -oE '^ *\[[0-9]+/[0-9]+\]|^ *(Building|Installing|Successfully).*
^.{0,200}[Ee][Rr][Rr][Oo][Rr]:.{0,200}' >&2 || true
}

build_advice() {
    local include
    include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    if ! command -v "${CXX:-c++}" >/dev/null; then
        echo 'There is no C++ compiler. Debian and Ubuntu: apt install build-essential'
    elif [ ! -e "$include/Python.h" ]; then
        echo "There is no $include/Python.h. Debian and Ubuntu: apt install python3.11-dev"
    elif grep -q 'Killed' "$venv/mmcv-build.log"; then
        echo 'A compiler was killed, most likely for want of memory: set MAX_JOBS=1.'
    else
        echo 'If a compiler failed: C++17 is needed (GCC 9 or newer). If the download' \
            'failed: check the network, or name a mirror in PIP_INDEX_URL.'
    fi
}

make_environment() {
    make_venv
    rm -f "$venv/frskd_mm.state"
    say 'Installing torch and the build tools (a download of 3 GB)'
    install 'torch' -r "$root/requirements/build.txt"
    say 'Installing the OpenMMLab libraries and the tools for tests'
    install 'The OpenMMLab libraries' --no-build-isolation \
        $(grep -v mmcv <<<"$libraries") \
        -r "$root/requirements/test.txt" -r "$root/requirements/lint.txt"
    # Both builds of OpenCV are asked for. The last one wins, and must be the one
    # without windows: the other needs libGL, which servers and containers lack.
    install 'OpenCV' --no-deps --force-reinstall opencv-python-headless
    install_mmcv
    check_operators >"$venv/mmcv.cuda"
    if [ -e /dev/nvidia0 ] && ! has_cuda_operators; then
        say "mmcv has no CUDA operators, so make's commands run on the CPU. For the GPU" \
            "install torch's CUDA toolkit, remove $venv and run the same command again."
    fi
}

has_cuda_operators() { [ "$(cat "$venv/mmcv.cuda")" != 'not available' ]; }

# Checkouts may share an environment, so the package is linked to the one at hand.
link_package() {
    [ "$(cat "$venv/frskd_mm.checkout" 2>/dev/null)" != "$root" ] || return 0
    install 'frskd_mm' --quiet --no-deps --no-build-isolation -e "$root"
    echo "$root" >"$venv/frskd_mm.checkout"
}

choose_interpreter
if [ -x "$python" ] &&
    [ "$(cat "$venv/frskd_mm.state" 2>/dev/null)" = "$(wanted_state)" ]; then
    link_package
else
    make_environment
    link_package
    wanted_state >"$venv/frskd_mm.state"
    say "The environment is ready: $venv"
fi
has_cuda_operators || export CUDA_VISIBLE_DEVICES=-1
if [ $# -gt 0 ]; then
    export VIRTUAL_ENV=$venv PATH=$venv/bin:$PATH
    exec "$@"
fi
