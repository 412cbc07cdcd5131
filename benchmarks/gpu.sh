#!/usr/bin/env bash
# All that a machine with a GPU is asked, in about eight minutes: the benchmarks, then the tests that need one.
#
#   bash benchmarks/gpu.sh OUT               what is said goes to text files in the folder OUT, as it is said
#   bash benchmarks/gpu.sh OUT --small       on a CPU, with a tiny CLIP: to see that all of it runs
#
# Each part has its own limit of time, and a part that fails or is stopped leaves what it said; the parts that matter
# most come first. PYTHON names an interpreter that has what xcoop needs; else that of scripts/env.sh is taken.
set -uo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
out=${1:?a folder for the text files}
small=${2:-}
mkdir -p -- "$out"
out=$(cd -- "$out" && pwd -P)
[ -n "${PYTHON:-}" ] || { set -e; source scripts/env.sh test; set +e; }
data=$(mktemp -d)
trap 'rm -rf -- "$data"' EXIT
export PYTHONPATH=$PWD/src${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1

device=cuda patience=1 few=()
cocoop=(--sequences 512 256 1024 3200)
sweep=(--trainers "XCoOp CoOp" --shots 16 --seeds "1 2 3")
tests=(-m gpu)
if [ -n "$small" ]; then
    device=cpu patience=5 few=(--small --rounds 1)
    cocoop=(--small --batch 8 --sequences 512 128)
    sweep=(--trainers ZeroshotCLIP --shots 1 --seeds 1)
    tests=(-k kernels)
fi

failed=0
part() { # NAME SECONDS ARGUMENTS...: runs Python with these
    local name=$1 limit=$2 status=0 start=$SECONDS
    shift 2
    timeout $((limit * patience)) "$PYTHON" "$@" >"$out/$name.txt" 2>&1 || status=$?
    [ "$status" -eq 0 ] || failed=1
    echo "$name: exit code $status after $((SECONDS - start)) s" | tee -a "$out/$name.txt"
}

part roofline 110 benchmarks/roofline.py --device "$device" --graph "${few[@]}"
part steps 130 benchmarks/steps.py --device "$device" --graph "${few[@]}"
part cocoop_memory 30 benchmarks/cocoop_memory.py --device "$device" "${cocoop[@]}"
part explanations 30 benchmarks/explanations.py --device "$device" "${few[@]}"
part sweep 110 benchmarks/sweep.py --device "$device" --part "${sweep[@]}" --data "$data"
XCOOP_TEST_GPU=1 part tests 120 -m pytest -q "${tests[@]}" tests/benchmarks tests/trainers/test_gpu.py
exit "$failed"
