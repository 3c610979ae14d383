#!/usr/bin/env bash
# Make the project's Python environment when it is missing or outdated, then run a
# command in it:
#
#     bash tools/env.sh [COMMAND ...]
#
# Settings, all optional, are environment variables:
#     STACK         maintained or classic, the family of libraries (maintained)
#     OPERATORS=0   only what classification needs, without mmcv's compiled
#                   operators; an environment that has them serves as well
#     PYTHON        the interpreter, a Python 3.11 (python3.11, then python3); with
#                   OPERATORS=0 and the maintained libraries also a 3.12
#     FRSKD_VENV    folder of the environment (.venv or .venv-classic here)
#     TORCH_INDEX   where wheels of torch for the CPU alone are looked for on
#                   machines without a GPU, beside pip's own indexes (PyTorch's)
#     FORCE_CUDA=1  compile mmcv's CUDA operators although no GPU is seen
#     MAX_JOBS      compilers to run at once (one a core)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
stack=${STACK:-maintained}
folder=$root/requirements
case $stack in
    maintained) venv=$root/.venv prefix='' ;;
    classic) venv=$root/.venv-classic prefix=classic- ;;
    *)
        printf 'error: STACK=%s is neither maintained nor classic.\n' "$stack" >&2
        exit 1
        ;;
esac
venv=${FRSKD_VENV:-$venv}
python=$venv/bin/python
# torch and numpy come with the build tools, before the libraries.
libraries=$(grep -vE '^(#|$|torch|numpy)' "$folder/$stack.txt")
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
        case $stack,${OPERATORS:-1},$version in
            *,3.11.* | maintained,0,3.12.*) return ;;
        esac
    done
    fail "Python 3.11 is needed; $interpreter is ${version:-not there or broken}." \
        'Debian and Ubuntu: apt install python3.11 python3.11-venv python3.11-dev' \
        'Or name one that you have: make PYTHON=/path/to/python3.11 ...'
}

# What the environment is made from: with the operators or without (1 or 0) ...
wanted_state() { # OPERATORS
    echo "$stack, operators: $1"
    version_of "$interpreter"
    cat "$folder"/*.txt | cksum
}

# A venv whose making was stopped has no pip yet; one that was moved has a pip whose
# interpreter is at the old place.
is_whole() {
    local first
    first=$(sed -n '1s/^#!//p' "$venv/bin/pip" 2>/dev/null)
    # A path with a space, or a long one, is not in the first line.
    [ "$first" = /bin/sh ] || [ -x "$first" ]
}

is_made() { # OPERATORS
    [ -x "$python" ] && is_whole && [ "$(cat "$state" 2>/dev/null)" = "$(wanted_state "$1")" ]
}

make_venv() {
    if [ -e "$venv" ] && [ ! -e "$venv/pyvenv.cfg" ] && [ -n "$(ls -A "$venv")" ]; then
        fail "$venv is not a Python environment." \
            'Move it away, or name another folder in FRSKD_VENV.'
    fi
    [ "$(version_of "$python")" != "$(version_of "$interpreter")" ] || ! is_whole ||
        return 0
    say "Making $venv with Python $(version_of "$interpreter")"
    "$interpreter" -m venv --clear "$venv" >&2 ||
        fail "$interpreter could not make a virtual environment." \
            'Debian and Ubuntu: apt install python3.11-venv'
}

install() { # WHAT PIP_ARGUMENTS ...
    local what=$1
    shift
    "$python" -m pip --disable-pip-version-check install \
        --constraint "$folder/${prefix}constraints.txt" "$@" >&2 ||
        fail "$what could not be installed; pip says above why." \
            'No connection or a time-out: check the network, or name a mirror in' \
            'PIP_INDEX_URL. No space left: about 10 GB are needed.' "$again"
}

has_gpu() { [ -e /dev/nvidia0 ] || [ -e /dev/dxg ] || [ "${FORCE_CUDA:-}" = 1 ]; }

has_torch() { # PINS, of which a build may add to the version, as in 2.10.0+cpu
    "$python" - "$@" 2>/dev/null <<'PYTHON'
import sys
from importlib.metadata import version

import torch, torchvision

for pin in sys.argv[1:]:
    name, wanted = pin.split('==')
    assert version(name).split('+')[0] == wanted
PYTHON
}

# For Linux on Intel and AMD, PyPI's wheels of torch carry CUDA: 4 GB with what they
# need. Those for the CPU alone are a twentieth of it, where an index has them.
install_torch() {
    local pins index=${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}
    pins=$(grep '^torch' "$folder/${prefix}build.txt")
    if [ "$(uname -sm)" = 'Linux x86_64' ] && ! has_gpu &&
        ! has_torch $pins; then
        say 'No GPU was found: looking for torch without CUDA'
        if "$python" -m pip --disable-pip-version-check --retries 0 --timeout 20 \
            install --no-deps --extra-index-url "$index" $(sed 's/$/+cpu/' <<<"$pins") \
            2>/dev/null >&2; then
            return
        fi
        say 'pip finds none, so it downloads the one with CUDA and its libraries, 4 GB.' \
            'TORCH_INDEX names an index that has wheels for the CPU.'
    fi
    install 'torch' $pins
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
        options=("${build_anew[@]}")
    else
        unset FORCE_CUDA
        export CUDA_VISIBLE_DEVICES=-1 # a visible GPU makes the build ask for nvcc
        ! has_mmcv || ! check_operators >/dev/null 2>&1 || return 0
        say "Looking for a prebuilt wheel of $mmcv"
        if "$python" -m pip --disable-pip-version-check install --no-deps \
            --force-reinstall --only-binary "${mmcv%%==*}" "$mmcv" >/dev/null 2>&1 &&
            check_operators >/dev/null 2>&1; then
            return
        fi
    fi
    export MAX_JOBS=${MAX_JOBS:-$(getconf _NPROCESSORS_ONLN)} MMCV_WITH_OPS=1
    say "$reason." "Compiling mmcv's operators for the $kind, $MAX_JOBS file(s) at a" \
        'time. On 2 cores it takes about 14 minutes for the CPU, and longer for a GPU.' \
        "Started at $(date +%H:%M)."
    compile_mmcv ${options[@]+"${options[@]}"} # bash 3 takes an empty list for unset
    if ! check_operators >/dev/null 2>&1 && ! grep -q 'Building wheel' "$log"; then
        say 'pip took up what it had built for another torch or without the operators.' \
            'Compiling anew.'
        compile_mmcv "${build_anew[@]}"
    fi
    check_operators >/dev/null ||
        fail 'mmcv was installed, but its operators cannot be loaded (see above).' \
            "The whole log of its compilation is $log" "$again"
}

# One copy of mmcv replaces another of the same name in the same folder.
compile_mmcv() { # PIP_OPTIONS ...
    "$python" -m pip --disable-pip-version-check --verbose install --no-deps \
        --force-reinstall --no-build-isolation "$@" "$mmcv" 2>&1 |
        tee "$log" | show_progress ||
        fail "mmcv could not be built; the whole log is $log" "$(build_advice)" "$again"
}

has_mmcv() {
    "$python" - "$mmcv" 2>/dev/null <<'PYTHON'
import sys
from importlib.metadata import version

name, _, wanted = sys.argv[1].partition('==')
sys.exit(version(name) != wanted)
PYTHON
}

# Where torch cannot be seen mmcv is built without its operators, in seconds. pip
# must not keep that wheel, or would take it up where the operators are needed.
# The classic one needs the older setuptools here, too.
install_mmcv_without_operators() {
    ! has_mmcv || return 0
    install 'mmcv' --no-deps --no-cache-dir \
        --build-constraint "$folder/${prefix}build.txt" "$mmcv"
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
    elif grep -q 'Killed' "$log"; then
        echo 'A compiler was killed, most likely for want of memory: set MAX_JOBS=1.'
    else
        echo 'If a compiler failed: C++17 is needed (GCC 9 or newer). If the download' \
            'failed: check the network, or name a mirror in PIP_INDEX_URL.'
    fi
}

make_base() {
    make_venv
    rm -f "$state"
    say 'Installing torch and the build tools'
    install_torch
    install 'The build tools' -r "$folder/${prefix}build.txt"
}

make_full() {
    make_base
    say 'Installing the OpenMMLab libraries and the tools for tests'
    install 'The OpenMMLab libraries' --no-build-isolation \
        $(grep -v mmcv <<<"$libraries") \
        -r "$folder/${prefix}test.txt" -r "$folder/lint.txt"
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

make_light() {
    export PIP_NO_COMPILE=1 # only what is imported is, and then
    make_base
    say 'Installing what classification needs'
    install 'The OpenMMLab libraries' --no-build-isolation \
        $(grep -E 'mmengine|mmpretrain' <<<"$libraries") \
        -r "$folder/demo.txt" opencv-python-headless
    install_mmcv_without_operators
}

has_cuda_operators() { [ "$(cat "$venv/mmcv.cuda" 2>/dev/null)" != 'not available' ]; }

# Checkouts may share an environment, so the package is linked to the one at hand.
link_package() {
    [ "$(cat "$venv/frskd_mm.checkout" 2>/dev/null)" != "$root" ] || return 0
    install 'frskd_mm' --quiet --no-deps --no-build-isolation -e "$root"
    echo "$root" >"$venv/frskd_mm.checkout"
}

state=$venv/frskd_mm.state
log=$venv/mmcv-build.log
build_anew=(--no-cache-dir --no-binary "${mmcv%%==*}")

choose_interpreter
if [ "${OPERATORS:-1}" = 0 ] && ! is_made 1; then
    operators=0 make=make_light
else
    operators=1 make=make_full
fi
if ! is_made "$operators"; then
    "$make"
    link_package
    wanted_state "$operators" >"$state"
    say "The environment is ready: $venv"
else
    link_package
fi
has_cuda_operators || export CUDA_VISIBLE_DEVICES=-1
if [ $# -gt 0 ]; then
    export VIRTUAL_ENV=$venv PATH=$venv/bin:$PATH
    exec "$@"
fi
