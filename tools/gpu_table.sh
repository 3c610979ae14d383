#!/usr/bin/env bash
# CIFAR-100 at full length on one GPU, as in the paper, in pieces of the time that there is:
#
#     bash tools/gpu_table.sh PART ...
#
#     wheels  where there is a network: download what the GPU's machine lacks
#     env     there: make an environment over its own torch, from these wheels alone
#     tests   run the tests that need a GPU
#     bench   measure time and memory of a step, with and without torch.compile
#     table   train and test; the same call goes on where the last one stopped
#
# Settings, all optional, are environment variables:
#     PYTHON    interpreter of the GPU's machine, with torch and torchvision (python3);
#               for wheels, one of the same version
#     VENV      the environment (.venv-gpu)
#     WHEELS    the folder of wheels (wheels)
#     MINUTES   end the trainings after so many (no end)
#     JOBS      trainings at a time on the GPU (4)
#     SEEDS     ("0 1 2")
#     STUDENTS  ("wrn16-2 resnet18")
#     RECIPES   ("paper strong")
#     METHODS   (ce,label-smoothing,frskd,frskd-attached)
#     EPOCHS    (200; the schedules are made for it)
#     STEPS     measured by bench (50)
#     OPTIONS   config values for all trainings, key=value (none)
#     DEVICE    cuda, or cpu to try the script out (cuda)
#     OUT       folder of the runs and their reports (work_dirs/gpu_table)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
venv=${VENV:-.venv-gpu}
wheels=${WHEELS:-wheels}
device=${DEVICE:-cuda}
out=${OUT:-work_dirs/gpu_table}
methods=${METHODS:-ce,label-smoothing,frskd,frskd-attached}
# What is no part of torch's own distributions.
packages=(onedl-mmengine onedl-mmpretrain opencv-python-headless matplotlib scikit-learn
    pytest hypothesis)
[ "$device" = cuda ] || export CUDA_VISIBLE_DEVICES=-1

say() { printf '\n==> %s\n' "$*" >&2; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

download_wheels() {
    local of_torch='^(torch|torchvision|triton|nvidia-.*|cuda-.*)=='
    rm -rf "$wheels/.venv"
    "$python" -m venv "$wheels/.venv"
    local pip=("$wheels/.venv/bin/python" -m pip --disable-pip-version-check)
    "${pip[@]}" install --quiet "$(grep '^pip==' requirements/build.txt)"
    say "Downloading into $wheels for Python $("$python" -V | cut -d ' ' -f 2)"
    # pip knows what the packages bring along; only torch's part of it stays away.
    "${pip[@]}" install --quiet --dry-run --report "$wheels/report.json" \
        --constraint requirements/constraints.txt \
        "${packages[@]}" setuptools wheel
    "$python" - "$wheels/report.json" <<'PYTHON' | grep -vE "$of_torch" >"$wheels/list.txt"
import json
import sys

with open(sys.argv[1], encoding='utf-8') as file:
    for item in json.load(file)['install']:
        print('{name}=={version}'.format(**item['metadata']))
PYTHON
    # Apart, since pip installs no two versions of one distribution at a time.
    rm -rf "$wheels/new"
    "${pip[@]}" wheel --quiet --no-deps --wheel-dir "$wheels/new" -r "$wheels/list.txt"
    # Where torch cannot be seen mmcv is built without operators, which are not needed.
    "${pip[@]}" wheel --quiet --no-deps --no-cache-dir --wheel-dir "$wheels/new" \
        --build-constraint requirements/build.txt \
        "$(grep '^onedl-mmcv' requirements/maintained.txt)"
    rm -rf "$wheels/.venv" "$wheels/whole"
    mv "$wheels/new" "$wheels/whole"
    du -sh "$wheels" >&2
}

make_environment() {
    "$python" -c 'import torch, torchvision' ||
        fail "$python has no torch and torchvision; name one that has in PYTHON."
    "$python" -m venv --clear --system-site-packages "$venv"
    "$venv/bin/python" -m pip --disable-pip-version-check install --quiet --no-index \
        --no-deps "$wheels"/whole/*.whl
    "$venv/bin/python" -m pip --disable-pip-version-check install --quiet --no-index \
        --no-deps --no-build-isolation -e .
    "$venv/bin/python" -c 'import torch, frskd_mm, mmpretrain
print("torch", torch.__version__, "CUDA:", torch.cuda.is_available())'
}

need_environment() {
    [ -x "$venv/bin/python" ] || fail "There is no $venv: bash tools/gpu_table.sh env"
    [ "$device" = cpu ] ||
        "$venv/bin/python" -c 'import torch; torch.cuda.current_device()' 2>/dev/null ||
        fail 'PyTorch sees no GPU; DEVICE=cpu tries the script out without one.'
}

config_of() { # STUDENT RECIPE
    case $1-$2 in
        resnet18-paper) echo configs/resnet18_cifar100.py ;;
        wrn16-2-paper) echo configs/mmpretrain/wrn16-2_1xb128_cifar100.py ;;
        *-strong) echo "configs/mmpretrain/$1_1xb128-strong_cifar100.py" ;;
        *) fail "There is no recipe $2 of $1." ;;
    esac
}

run_tests() {
    "$venv/bin/python" -m pytest -q tests/test_gpu.py tests/test_utils/test_random.py
}

measure() {
    local options=(--batch-size 128 --image-size 32 32 --steps "${STEPS:-50}")
    [ "$device" = cpu ] || options+=(--amp)
    local config
    mkdir -p "$out"
    for student in ${STUDENTS:-wrn16-2 resnet18}; do
        config=$(config_of "$student" paper)
        for compile in '' --compile; do
            "$venv/bin/python" tools/benchmark.py "$config" \
                --method frskd,frskd-attached "${options[@]}" $compile \
                --json "$out/bench-$student$compile.json"
        done
    done
}

train() {
    local options=(
        train_dataloader.dataset.batches_on="$device" train_dataloader.num_workers=0
        train_dataloader.collate_fn.type=frskd_mm.keep_batch
        train_cfg.max_epochs="${EPOCHS:-200}" train_cfg.val_interval=20
        default_hooks.checkpoint.interval=5
    )
    [ "$device" = cpu ] || options+=(
        optim_wrapper.type=AmpOptimWrapper optim_wrapper.dtype=bfloat16
    )
    local seeds=() config failed=''
    # A seed more for all rows before the next: what is there when the time is over
    # can be compared.
    for seed in ${SEEDS:-0 1 2}; do
        seeds+=("$seed")
        for recipe in ${RECIPES:-paper strong}; do
            for student in ${STUDENTS:-wrn16-2 resnet18}; do
                config=$(config_of "$student" "$recipe")
                say "$student, $recipe recipe, seeds ${seeds[*]}"
                "$venv/bin/python" tools/compare.py --methods "$methods" \
                    --config "$config" --seeds "${seeds[@]}" \
                    --jobs "${JOBS:-4}" --out "$out/$student-$recipe" \
                    --cfg-options "${options[@]}" ${OPTIONS:-} || {
                    # 1: some runs failed. 2 is a mistake; from 128 on it was a signal.
                    [ $? = 1 ] || exit 1
                    failed+=" $student-$recipe"
                }
            done
        done
    done
    [ -z "$failed" ] || fail "Some runs failed, see their reports in $out:$failed"
}

[ $# -gt 0 ] || {
    sed -n '2,/^set/{/^set/d; s/^# \{0,1\}//; p}' "${BASH_SOURCE[0]}"
    exit 1
}
for part in "$@"; do
    case $part in
        wheels) download_wheels ;;
        env) make_environment ;;
        tests) need_environment && run_tests ;;
        bench) need_environment && measure ;;
        table)
            need_environment
            if [ -n "${MINUTES:-}" ] && [ -z "${FRSKD_IN_TIME:-}" ]; then
                # The runs keep their last checkpoint, from which the next call goes on.
                FRSKD_IN_TIME=1 timeout "${MINUTES}m" bash "${BASH_SOURCE[0]}" table ||
                    [ $? = 124 ] || exit 1
            else
                train
            fi
            ;;
        *) fail "There is no part $part: wheels, env, tests, bench, table." ;;
    esac
done
