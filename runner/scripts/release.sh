#!/usr/bin/env bash
# ./dev release: builds the shipped programs of the last commit twice, by helm/programs.sh as the images do, in folders whose names differ in
# length and with another home of cargo, time zone and umask, and compares them byte for byte. Leaves programs, SBOMs and SHA256SUMS in
# target/dist. Two release builds: 20 minutes on two processors, and 2 GB of disk meanwhile.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
scripts=$root/runner/scripts
target=${CARGO_TARGET_DIR:-$root/target}
out=$target/dist
programs=(tendril-api tendril-broker tendril-runner)
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

(($# == 0)) || fail "./dev release takes no arguments"
commit=$(git -C "$root" rev-parse HEAD) || fail "$root is no clone of a repository: there is no commit to build"
mkdir -p "$target"
work=$(mktemp -d -p "$target" release.XXXXXX)
trap 'rm -rf "$work"' EXIT
"$scripts/sbom.sh" "$work/sbom" "$commit"

# Builds in a folder of that name; its programs are in NAME.out afterwards, what cargo said in NAME.messages.
build() { # NAME
  printf '==> building in %s\n' "$work/$1"
  mkdir "$work/$1"
  git -C "$root" archive "$commit" | tar -x -C "$work/$1"
  env -u CARGO_TARGET_DIR "$work/$1/helm/programs.sh" "$work/$1.out" --quiet --message-format json-render-diagnostics >"$work/$1.messages"
  rm -rf "${work:?}/$1"
}

# The same crates by another name.
other_cargo_home() {
  local home=${CARGO_HOME:-$HOME/.cargo}
  mkdir "$work/home-of-cargo"
  ln -s "$home"/* "$work/home-of-cargo/"
  printf '%s\n' "$work/home-of-cargo"
}

build one
other=$(other_cargo_home)
(umask 077 && CARGO_HOME=$other TZ=Asia/Kathmandu LC_ALL=C build the-other-one-of-the-two)

for program in "${programs[@]}"; do
  cmp "$work/one.out/$program" "$work/the-other-one-of-the-two.out/$program" || different+=("$program")
  ! grep -qaF -e "$root" -e /registry/src/ -e "$(rustc --print sysroot)" "$work/one.out/$program" || fail "$program tells where it was built"
  python3 "$scripts/sbom/built.py" "$program" "$work/one.messages" "$work/sbom/$program.cdx.json"
done
rm -rf "$out"
mkdir "$out"
if [[ -v different ]]; then
  mv "$work"/*.out "$out/"
  fail "${different[*]}: not the same bytes twice. See how they differ: diffoscope $out/*/${different[0]}"
fi
install -m 0755 "$work"/one.out/* "$out/"
install -m 0644 "$work"/sbom/* "$out/"
(cd "$out" && sha256sum -- * >"$work/SHA256SUMS" && install -m 0644 "$work/SHA256SUMS" . && cat SHA256SUMS)
