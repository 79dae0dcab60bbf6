#!/usr/bin/env bash
# helm/programs.sh FOLDER [ARGUMENTS of cargo build]: builds the programs that are shipped, as they are shipped, into FOLDER. The images' builder
# and `./dev release` call this and nothing else: one tree, compiler, C compiler and C library make the same bytes in any folder, at any time.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
programs=(tendril-api tendril-broker tendril-runner)
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

(($# > 0)) || fail "usage: helm/programs.sh FOLDER [ARGUMENTS of cargo build]"
mkdir -p "$1"
into=$(cd "$1" && pwd -P)
shift
cd "$root"

# Where a program was built does not stand in it: places of panics and what the C code of crates knows of its files are said as if the tree
# lay in /tendril, crates in /cargo and the library of Rust where its own builders had it.
home=${CARGO_HOME:-$HOME/.cargo}
library=$(rustc --print sysroot)/lib/rustlib/src/rust
commit=$(rustc -vV | sed -n 's/^commit-hash: //p')
# Makes the folders of registries, whose names follow from their addresses.
cargo fetch --quiet --locked --target "$(rustc -vV | sed -n 's/^host: //p')"
places=("$root=/tendril" "$home=/cargo" "$library=/rustc/$commit")
for registry in "$home"/registry/src/*; do places+=("$registry=/cargo/crates"); done

rust_flags='' c_flags=''
for place in "${places[@]}"; do
  rust_flags+=${rust_flags:+$'\x1f'}--remap-path-prefix=$place
  c_flags+=$(printf '%q ' "-ffile-prefix-map=$place")
done
unset RUSTFLAGS CARGO_BUILD_RUSTFLAGS RUSTC_WRAPPER RUSTC_WORKSPACE_WRAPPER CARGO_BUILD_TARGET
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target} CARGO_ENCODED_RUSTFLAGS=$rust_flags CFLAGS=$c_flags CC_SHELL_ESCAPED_FLAGS=1 CARGO_INCREMENTAL=0 SQLX_OFFLINE=true

# Each by itself: built together with the rest of the workspace they would have the features that tests need, and the runner an S3 client.
for program in "${programs[@]}"; do
  cargo build --locked --profile ship -p "$program" --bin "$program" "$@"
  install -m 0755 "$CARGO_TARGET_DIR/ship/$program" "$into/"
done
