#!/usr/bin/env bash
# Takes the parts of a throwaway Kubernetes from registries: Debian packages (unpacked, not installed) and Go modules, pinned
# by kubernetes/go.sum. The first time takes about 5 minutes on two processors and 3 GB of Go's build cache.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

packages=(etcd-server containerd runc busybox-static containernetworking-plugins)
programs=(kube-apiserver kube-controller-manager kube-scheduler kubelet kubectl)

unpack() {
  [[ -x $kube_parts/usr/bin/containerd ]] && return 0
  local debs=$kube_state/debs deb
  rm -rf "$debs" "$kube_parts" "$kube_parts.new"
  mkdir -p "$debs" "$kube_parts.new"
  (cd "$debs" && apt-get download -q "${packages[@]}")
  for deb in "$debs"/*.deb; do dpkg -x "$deb" "$kube_parts.new"; done
  mv "$kube_parts.new" "$kube_parts" # at once: half of them would look like all
  rm -rf "$debs"
}

build() { # PROGRAM
  [[ $(cat "$kube_bin/$1.version" 2>/dev/null) == "$kube_version" ]] && return 0
  local package minor=${kube_version#1.} flags='-s -w'
  minor=${minor%%.*}
  # Charts ask for the version, which otherwise is that of a tree without tags.
  for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    flags+=" -X $package.gitVersion=v$kube_version -X $package.gitMajor=1 -X $package.gitMinor=$minor -X $package.gitTreeState=clean"
  done
  say "building $1"
  CGO_ENABLED=0 GOFLAGS=-mod=readonly go build -C "$kube_here/kubernetes" -trimpath -ldflags "$flags" -o "$kube_bin/$1" "k8s.io/kubernetes/cmd/$1"
  printf '%s\n' "$kube_version" >"$kube_bin/$1.version"
}

mkdir -p "$kube_bin"
unpack
for program in "${programs[@]}"; do build "$program"; done
if [[ ! -x $kube_bin/pause ]]; then
  # The first process of each pod: it waits, and takes over whose parents are gone.
  cc -Os -static -s -o "$kube_bin/pause" -x c - <<'C'
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
static void leave(int signal) { (void)signal; _exit(0); }
static void collect(int signal) { (void)signal; while (waitpid(-1, 0, WNOHANG) > 0); }
int main(void) {
  signal(SIGTERM, leave);
  signal(SIGINT, leave);
  signal(SIGCHLD, collect);
  while (1) pause();
}
C
fi
