#!/usr/bin/env bash
# ./dev sandbox aarch64: tries the filter of system calls by a real kernel for aarch64, in QEMU. (An emulator of single programs would not
# do: it has no filters.) Debian's own kernel and Perl, from its archive by apt, make a machine that only runs sandbox-try.pl.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
state=$root/.state/sandbox-aarch64
tree=$state/tree
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

[[ ${1:-} == aarch64 && $# == 1 ]] || fail "usage: ./dev sandbox aarch64"
for program in qemu-system-aarch64 cpio perl dpkg-deb apt-get; do
  command -v "$program" >/dev/null || fail "$program is missing: apt-get install qemu-system-arm cpio perl"
done
headers=/usr/include/asm-generic/unistd.h
[[ -e $headers ]] || fail "$headers is missing: apt-get install linux-libc-dev"

# Debian's packages for aarch64, with lists of their own: this machine's apt stays as it is. apt checks Debian's signatures.
packages=(libc6 libcrypt1 perl-base)
mkdir -p "$state/lists/partial" "$state/debs/partial" "$state/cache"
touch "$state/status"
arm() {
  "$1" -q -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State="$state" -o Dir::State::lists="$state/lists" -o Dir::State::status="$state/status" \
    -o Dir::Cache="$state/cache" -o APT::Sandbox::User=root "${@:2}"
}
if [[ ! -e $state/kernel ]]; then
  printf '==> fetching a kernel and Perl for aarch64 (70 MB)\n'
  arm apt-get update >"$state/apt.log" 2>&1 || fail "apt-get update failed, see $state/apt.log"
  kernel=$(arm apt-cache depends linux-image-arm64 | sed -n 's/^ *Depends: //p' | head -n 1)
  [[ -n $kernel ]] || fail "Debian's archive names no kernel for aarch64; see $state/apt.log"
  (cd "$state/debs" && arm apt-get download "$kernel" "${packages[@]}" >>"$state/apt.log" 2>&1) || fail "apt-get download failed, see $state/apt.log"
  rm -rf "$tree" "${state:?}/boot"
  mkdir -p "$tree" "$state/boot"
  dpkg-deb --fsys-tarfile "$state"/debs/linux-image-*.deb | tar -x -C "$state/boot" --wildcards './boot/vmlinuz-*'
  for package in "${packages[@]}"; do dpkg-deb -x "$state/debs/$package"_*.deb "$tree"; done
  mv "$state"/boot/boot/vmlinuz-* "$state/kernel"
  rm -rf "$state/debs"
fi

printf '==> the filter, as it is installed\n'
for udp in udp no-udp; do
  cargo run --quiet --locked -p tendril-runner --example sandbox_filter -- aarch64 "$udp" >"$tree/filter.$udp"
done
# The kernel's own numbers, by name: the filter's table is not asked for them.
perl -ne '$n{$1} = $2 if /^#define __NR(?:3264)?_(\w+)\s+(\d+)\s*$/; END { print "$_ $n{$_}\n" for sort keys %n }' "$headers" >"$tree/numbers"
cp "$root/runner/scripts/sandbox-try.pl" "$tree/init"
chmod 0755 "$tree/init"
mkdir -p "$tree"/{proc,dev,tmp}
(cd "$tree" && find . -print0 | cpio --quiet --null --create --format newc | gzip -1) >"$state/initramfs"

printf '==> the kernel\n'
# A 32-bit program is run too: this processor has that mode.
timeout 540 qemu-system-aarch64 -machine virt -cpu cortex-a72 -smp 2 -m 512 -nographic -no-reboot -nic none \
  -kernel "$state/kernel" -initrd "$state/initramfs" -append 'console=ttyAMA0 panic=-1 quiet loglevel=3' </dev/null |
  tee "$state/console" | tr -d '\r' | grep -E '^(tendril|error)' || true
grep -q '^tendril: all as the table says' "$state/console" || fail "not all calls ended as the table says; see $state/console"
