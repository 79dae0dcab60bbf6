#!/usr/bin/env bash
# Images for the proof, made of what is on this machine: the programs of target/debug, the libraries that they are linked
# with, busybox for a shell, tofu. No container engine, no registry. images.sh imports them into the node.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

images=$kube_state/images

libraries() { # PROGRAM FOLDER: what it is linked with, its loader too
  local path
  for path in $(ldd "$1" | grep -o '/[^ ]*'); do install -D -m 0755 "$(realpath "$path")" "$2$path"; done
}

common() { # FOLDER
  local applet
  rm -rf "$1"
  mkdir -p "$1/bin" "$1/etc/ssl/certs" "$1/tmp" "$1/usr/local/bin" "$1/var/lib/tendril"
  chmod 1777 "$1/tmp"
  cp "$kube_parts/bin/busybox" "$1/bin/"
  for applet in sh sleep cat ls id env; do ln -s busybox "$1/bin/$applet"; done
  printf 'root:x:0:0::/:/bin/sh\ntendril:x:10001:10001::/:/bin/sh\n' >"$1/etc/passwd"
  printf 'root:x:0:\ntendril:x:10001:\n' >"$1/etc/group"
  cp /etc/ssl/certs/ca-certificates.crt "$1/etc/ssl/certs/"
}

program() { # NAME FOLDER
  local built=$kube_root/target/debug/$1
  [[ -x $built ]] || fail "$built is not there: cargo build -p tendril-broker -p tendril-runner"
  strip -o "$2/usr/local/bin/$1" "$built"
  libraries "$built" "$2"
}

pack() { # NAME TAG USER ENTRYPOINT
  python3 "$kube_here/image.py" "$images/$1.tar" "localhost/$1:$2" "$3" "$images/$1" "$4"
  in_containerd images import "$images/$1.tar" >/dev/null
  say "image $1: $(($(stat -c %s "$images/$1.tar") / 1048576)) MiB"
}

mkdir -p "$images"
if [[ ${1:-all} == pause ]]; then
  mkdir -p "$images/pause" && cp "$kube_bin/pause" "$images/pause/"
  pack pause 1 65535:65535 /pause
  exit 0
fi
common "$images/tendril-broker"
program tendril-broker "$images/tendril-broker"
pack tendril-broker proof 10001:10001 tendril-broker
common "$images/tendril-runner"
program tendril-runner "$images/tendril-runner"
cp "$kube_root/.state/tools/bin/tofu" "$images/tendril-runner/usr/local/bin/"
for manifest in "$kube_root"/templates/*/template.yaml; do
  mkdir -p "$images/tendril-runner/usr/share/tendril/templates"
  cp -r "${manifest%/*}" "$images/tendril-runner/usr/share/tendril/templates/"
done
pack tendril-runner proof 10001:10001 tendril-runner
