#!/usr/bin/env bash
# ./dev fuzz [TARGET...] [--runs N] [--seconds N] [--max-len N]: builds the targets of runner/fuzz with libFuzzer, on the pinned compiler,
# and runs those that are named, or all, one after the other. What it has found out stays in target/fuzz/corpus.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
fuzz=$root/runner/fuzz
out=${CARGO_TARGET_DIR:-$root/target}/fuzz
triple=$(uname -m)-unknown-linux-gnu

fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

mapfile -t all < <(sed -n '/^\[\[bin\]\]/{n;s/^name = "\(.*\)"/\1/p}' "$fuzz/Cargo.toml")
wanted=() limits=() max_len=512
while (($# > 0)); do
  case $1 in
    --runs) limits+=("-runs=$2"); shift ;;
    --seconds) limits+=("-max_total_time=$2"); shift ;;
    --max-len) max_len=$2; shift ;;
    -*) fail "./dev fuzz knows --runs, --seconds and --max-len, not '$1'" ;;
    *) [[ " ${all[*]} " == *" $1 "* ]] || fail "there is no target '$1'; there are: ${all[*]}"; wanted+=("$1") ;;
  esac
  shift
done
((${#wanted[@]} > 0)) || wanted=("${all[@]}")
((${#limits[@]} > 0)) || limits=(-runs=100000)
command -v c++ >/dev/null || fail "libFuzzer is C++: apt-get install g++"

# As cargo-fuzz does, without a nightly compiler: coverage for libFuzzer, and what a release build would not notice (overflows).
instrument='-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters'
instrument+=' -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares'
instrument+=' -Cdebug-assertions -Coverflow-checks -Copt-level=2 -Cdebuginfo=0 --cfg fuzzing'
RUSTFLAGS=$instrument CARGO_INCREMENTAL=0 cargo build --quiet --locked --release --manifest-path "$fuzz/Cargo.toml" --features link --bins \
  --target "$triple" --target-dir "$out"

for target in "${wanted[@]}"; do
  mkdir -p "$out/corpus/$target"
  seeds=()
  [[ ! -d $fuzz/seeds/$target ]] || seeds=("$fuzz/seeds/$target")
  printf '==> %s\n' "$target"
  "$out/$triple/release/$target" -max_len="$max_len" -artifact_prefix="$out/$target-" -print_final_stats=1 -verbosity=0 "${limits[@]}" \
    "$out/corpus/$target" "${seeds[@]}" 2>"$out/$target.log" || { tail -n 40 "$out/$target.log"; fail "$target has found something, see $out/$target-*"; }
  sed -n 's/^stat::\(number_of_executed_units\|average_exec_per_sec\|peak_rss_mb\): */    \1 /p' "$out/$target.log"
done
