# shellcheck shell=bash
# What all scripts of this folder share: places, addresses, and how processes are started and ended. `source` it.
# shellcheck disable=SC2034 # used by those who source it

kube_here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
kube_root=$(cd "$kube_here/../.." && pwd -P)
kube_state=${KUBE_STATE:-$kube_root/.state/kube} # all that is made; sockets lie elsewhere, their paths must be short
kube_parts=$kube_state/parts                     # unpacked Debian packages
kube_bin=$kube_state/bin                         # Kubernetes' programs
kube_run=$kube_state/node                        # certificates, data, logs, pids; `node.sh down` removes it
kube_sockets=/run/tendril-kube
kube_version=1.36.3
kube_netns=tendril-kube
kube_bridge=tendrilkube
kube_api=10.246.0.1 # on lo of the network namespace; pods reach API server and Postgres there
kube_node_ip=10.246.1.1
kube_pods=10.246.1.0/24
kube_services=10.97.0.0/16

[[ $kube_state == /* ]] || { printf 'error: KUBE_STATE: must begin with a slash\n' >&2; exit 1; }

PATH=$kube_bin:$kube_root/.state/helm:$kube_parts/usr/bin:$kube_parts/usr/sbin:$PATH
export PATH KUBECONFIG=$kube_run/pki/admin.kubeconfig

say() { printf '%s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

# start NAME PROGRAM...: in the background, in a session of its own, with log and pid below kube_run.
start() {
  local name=$1
  shift
  mkdir -p "$kube_run/log" "$kube_run/pid"
  setsid "$@" >>"$kube_run/log/$name.log" 2>&1 </dev/null &
  printf '%s\n' $! >"$kube_run/pid/$name"
}

runs() { # NAME
  local pid
  pid=$(cat "$kube_run/pid/$1" 2>/dev/null) && grep -qs '^State:.[^Z]' "/proc/$pid/status"
}

# end NAME [SIGNAL]: asks, waits for ten seconds, kills; only the process that `start` has noted.
end() {
  local pid wait
  pid=$(cat "$kube_run/pid/$1" 2>/dev/null) || return 0
  kill -"${2:-TERM}" "$pid" 2>/dev/null || true
  for ((wait = 0; wait < 100; wait++)); do
    runs "$1" || break
    sleep 0.1
  done
  kill -KILL "$pid" 2>/dev/null || true
  rm -f "$kube_run/pid/$1"
}

# within SECONDS COMMAND...: tries until it succeeds.
within() {
  local until=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < until)) || { printf 'not within its time: %s\n' "$*" >&2; return 1; }
    sleep 0.2
  done
}

in_containerd() { ctr --address "$kube_sockets/containerd.sock" --namespace k8s.io "$@"; }
