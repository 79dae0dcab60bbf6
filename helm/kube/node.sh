#!/usr/bin/env bash
# A Kubernetes of one node on this machine, in a network namespace of its own: node.sh up | down | restart-kubelet.
# As root; needs neither systemd nor a container engine. Tried on a host with cgroup v1.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"
# shellcheck source-path=SCRIPTDIR source=certificates.sh
source "$kube_here/certificates.sh"

pki=$kube_run/pki
cgroups() { find /sys/fs/cgroup -mindepth 1 -maxdepth 1 -type d -exec test -e '{}/cgroup.procs' ';' -print; }

etcd_and_api() {
  start etcd etcd --name proof --data-dir "$kube_run/etcd" --unsafe-no-fsync \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 --initial-cluster proof=http://127.0.0.1:2380
  start apiserver kube-apiserver --etcd-servers http://127.0.0.1:2379 --bind-address "$kube_api" --advertise-address "$kube_api" --secure-port 6443 \
    --tls-cert-file "$pki/apiserver.crt" --tls-private-key-file "$pki/apiserver.key" --client-ca-file "$pki/ca.crt" --cert-dir "$pki" \
    --kubelet-client-certificate "$pki/to-kubelet.crt" --kubelet-client-key "$pki/to-kubelet.key" --kubelet-certificate-authority "$pki/ca.crt" \
    --kubelet-preferred-address-types InternalIP --service-account-issuer https://kubernetes.default.svc \
    --service-account-key-file "$pki/accounts.pub" --service-account-signing-key-file "$pki/accounts.key" \
    --service-cluster-ip-range "$kube_services" --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction
  within 90 kubectl get --raw /readyz
  # Logs and exec: the API server has to be somebody to the kubelet.
  kubectl create clusterrolebinding apiserver-to-kubelet --clusterrole system:kubelet-api-admin --user apiserver-to-kubelet >/dev/null
}

controllers() {
  start controllers kube-controller-manager --kubeconfig "$pki/controller-manager.kubeconfig" --bind-address 127.0.0.1 --cert-dir "$pki" \
    --leader-elect=false --use-service-account-credentials --service-account-private-key-file "$pki/accounts.key" --root-ca-file "$pki/ca.crt"
  start scheduler kube-scheduler --kubeconfig "$pki/scheduler.kubeconfig" --bind-address 127.0.0.1 --cert-dir "$pki" --leader-elect=false
  within 60 kubectl -n default get serviceaccount default
}

containerd_settings() {
  mkdir -p "$kube_run/cni" "$kube_sockets"
  cat >"$kube_run/cni/10-pods.conflist" <<JSON
{"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "bridge", "bridge": "$kube_bridge", "isDefaultGateway": true, "hairpinMode": true,
  "ipam": {"type": "host-local", "dataDir": "$kube_run/addresses", "ranges": [[{"subnet": "$kube_pods"}]]}}]}
JSON
  cat >"$kube_run/containerd.toml" <<TOML
version = 2
root = "$kube_run/containerd"
state = "$kube_sockets/containerd"
[grpc]
  address = "$kube_sockets/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "$kube_run/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  disable_apparmor = true
  restrict_oom_score_adj = true # without CAP_SYS_RESOURCE nobody lowers a score
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$kube_parts/usr/lib/cni"
    conf_dir = "$kube_run/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      BinaryName = "$kube_parts/usr/sbin/runc"
      SystemdCgroup = false
TOML
}

kubelet_settings() {
  cat >"$kube_run/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false # since 1.35 such hosts are refused unless one says so
cgroupDriver: cgroupfs
cgroupRoot: /$kube_bridge
enforceNodeAllocatable: [pods]
containerRuntimeEndpoint: unix://$kube_sockets/containerd.sock
address: $kube_node_ip
healthzPort: 0
readOnlyPort: 0
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $pki/kubelet-server.crt
tlsPrivateKeyFile: $pki/kubelet-server.key
podLogsDir: $kube_run/pods
volumePluginDir: $kube_run/kubelet/plugins
failSwapOn: false
oomScoreAdj: 0 # a negative one needs CAP_SYS_RESOURCE
makeIPTablesUtilChains: false
seccompDefault: true
evictionHard: {memory.available: 100Mi, nodefs.available: 2%, imagefs.available: 2%}
imageGCHighThresholdPercent: 100
YAML
}

start_kubelet() {
  start kubelet kubelet --config "$kube_run/kubelet.yaml" --kubeconfig "$pki/node.kubeconfig" --root-dir "$kube_run/kubelet" \
    --cert-dir "$pki" --hostname-override node --node-ip "$kube_node_ip"
}

node() {
  local group
  sysctl vm.overcommit_memory kernel.panic kernel.panic_on_oops net.ipv4.ip_forward >"$kube_run/sysctl.before" 2>/dev/null || true
  # An address of its own: else it is that of some pod's end, changes when that pod goes, and the others send into nothing.
  ip link add "$kube_bridge" address 02:00:0a:f6:01:01 type bridge
  ip addr add "$kube_node_ip/24" dev "$kube_bridge"
  ip link set "$kube_bridge" up
  for group in $(cgroups); do mkdir -p "$group/$kube_bridge"; done
  containerd_settings
  start containerd containerd --config "$kube_run/containerd.toml"
  within 30 in_containerd version
  "$kube_here/images.sh" pause
  kubelet_settings
  start_kubelet
  within 60 kubectl wait --for=condition=Ready --timeout=5s node/node
}

up() {
  ((EUID == 0)) || fail "a node needs root"
  [[ ! -e $kube_run ]] || fail "there is one already: node.sh down"
  mkdir -p "$kube_run"
  ip link set lo up
  ip addr add "$kube_api/32" dev lo
  make_certificates
  etcd_and_api
  controllers
  node
  kubectl get nodes
}

# Everything by what was noted when it was started; the API server before etcd, which it would wait for.
down() {
  local part id mounted group file
  for part in kubelet scheduler controllers apiserver etcd; do end "$part"; done
  if runs containerd; then
    for id in $(in_containerd tasks ls -q); do in_containerd tasks rm -f "$id" >/dev/null 2>&1 || true; done
    end containerd
  fi
  # Shims outlive containerd; each names our socket in its command line.
  for file in /proc/[0-9]*/cmdline; do
    if { tr '\0' ' ' <"$file"; } 2>/dev/null | grep -q "containerd-shim.*$kube_sockets/"; then
      id=${file#/proc/}
      kill -KILL "${id%/cmdline}" 2>/dev/null || true
    fi
  done
  while read -r _ mounted _; do
    [[ $mounted != "$kube_run"/* && $mounted != "$kube_sockets"/* ]] || umount -l "$mounted"
  done < <(sort -r -k2 /proc/mounts)
  ip link del "$kube_bridge" 2>/dev/null || true
  ip addr del "$kube_api/32" dev lo 2>/dev/null || true
  for group in $(cgroups); do
    for part in "$group/$kube_bridge" "$group/k8s.io"; do
      [[ ! -d $part ]] || find "$part" -depth -type d -exec rmdir '{}' + 2>/dev/null || true
    done
  done
  find /var/log/containers -lname "$kube_run/*" -delete 2>/dev/null || true
  [[ ! -s $kube_run/sysctl.before ]] || sysctl -q -p "$kube_run/sysctl.before" || true
  rm -rf --one-file-system "$kube_run" "$kube_sockets"
}

case ${1:-} in
  up) up ;;
  down) down ;;
  restart-kubelet) end kubelet KILL && start_kubelet ;;
  *) fail "usage: node.sh up | down | restart-kubelet" ;;
esac
