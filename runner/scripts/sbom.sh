#!/usr/bin/env bash
# ./dev sbom [FOLDER [COMMIT]]: what each shipped program is built of, as CycloneDX 1.5, in target/sbom or FOLDER. cargo-cyclonedx describes the
# crates of COMMIT, or of the last one; sbom/bom.py keeps those that go into the program by cargo's own word, adds what is no crate, and fails where something is
# missing or the two disagree. The files are a function of the commit. `./dev sbom --set-up` only installs what that takes.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
here=$root/runner/scripts/sbom
tools=$root/.state/tools
version=0.5.9
target=x86_64-unknown-linux-gnu # what helm/Containerfile is for
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

need_cyclonedx() {
  [[ $("$tools/bin/cargo-cyclonedx" cyclonedx --version 2>/dev/null) != *" $version" ]] || return 0
  printf '==> building cargo-cyclonedx %s into .state/tools (about 2 minutes, once)\n' "$version"
  cargo install --quiet --locked --root "$tools" "cargo-cyclonedx@$version" || fail "cargo-cyclonedx could not be built; can cargo reach its registry?"
}

# CycloneDX's own JSON schema, and what checks by it; by checksum.
need_schema() {
  ! cmp -s "$here/requirements.txt" "$tools/sbom/installed" || return 0
  printf "==> taking CycloneDX's JSON schema into .state/tools (1 MB to download)\n"
  rm -rf "$tools/sbom"
  python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --no-deps --require-hashes --only-binary :all: \
    --target "$tools/sbom" --requirement "$here/requirements.txt" || fail "CycloneDX's schema could not be had; can pip reach its registry?"
  cp "$here/requirements.txt" "$tools/sbom/installed"
}

need_cyclonedx
need_schema
[[ ${1:-} != --set-up ]] || exit 0
[[ $# -le 2 && ${1:-} != -* ]] || fail "usage: ./dev sbom [FOLDER [COMMIT]]"
out=$(realpath -m "${1:-${CARGO_TARGET_DIR:-$root/target}/sbom}")
commit=$(git -C "$root" rev-parse --verify --quiet "${2:-HEAD}^{commit}") || fail "there is no commit ${2:-HEAD} in $root"
[[ $# -eq 2 ]] || git -C "$root" diff --quiet HEAD || printf 'NOTE: what is not committed is not described\n' >&2

# The tool writes beside the manifests: those of a copy.
work=$(realpath "$(mktemp -d)")
trap 'rm -rf "$work"' EXIT
mkdir "$work/tree"
git -C "$root" archive "$commit" | tar -x -C "$work/tree"
cd "$work/tree"
SOURCE_DATE_EPOCH=$(git -C "$root" log -1 --format=%ct "$commit") \
  "$tools/bin/cargo-cyclonedx" cyclonedx --quiet --format json --spec-version 1.5 --describe binaries --target "$target" --all-features
mkdir -p "$out"
for program in tendril-api tendril-broker tendril-runner; do
  of_program=(cargo tree --quiet --locked --package "$program" --target "$target" --format ' {p}')
  "${of_program[@]}" --edges normal,build --prefix depth >"$work/crates"
  "${of_program[@]}" --edges normal,no-proc-macro --prefix depth >"$work/linked"
  cp ./*/"${program}_bin.cdx.json" "$work/described"
  PYTHONPATH=$tools/sbom python3 "$here/bom.py" "$program" "$commit" "$work" "$out/$program.cdx.json"
done
