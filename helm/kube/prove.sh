#!/usr/bin/env bash
# The charts on a real Kubernetes, installed by a real Helm: jobs from a real Postgres run to their end through an eviction, an
# upgrade, a rollback, a dead kubelet, a lost pod and an uninstall. As root, after parts.sh and `cargo build -p tendril-broker -p
# tendril-runner`; takes about four minutes and leaves nothing. --keep leaves cluster and database running.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

# All of it is in a network namespace: nobody else sees it, and nothing of it reaches out.
if [[ ${1:-} != inside ]]; then
  ip netns add "$kube_netns" 2>/dev/null || fail "the network namespace $kube_netns is there: another proof runs, or README.md says how to clear it away"
  [[ ${1:-} == --keep ]] || trap 'ip netns del "$kube_netns"' EXIT
  status=0
  nsenter --net="/run/netns/$kube_netns" "$0" inside "$@" || status=$?
  exit "$status"
fi

work=$kube_state/proof
lines=20
say_step() { printf '[%4d s] %s\n' "$SECONDS" "$*"; }
k() { kubectl -n tendril "$@"; }
broker() { k exec -i deploy/tendril-serve -c serve -- tendril-broker "$@"; }
value_of() { sed -n 's/.*"'"$1"'": *"\([^"]*\)".*/\1/p' | head -n 1; } # NAME: the first such text in JSON on stdin

leave() {
  local status=$?
  trap - EXIT
  ((status == 0)) || look
  [[ ${keep:-} == yes ]] || "$kube_here/node.sh" down || true
  [[ ${keep:-} == yes ]] || "$kube_root/dev" server stop kube-proof >/dev/null 2>&1 || true
  exit "$status"
}

look() { # what a person would ask first
  k get pods -o wide || true
  k describe pods | tail -n 60 || true
  k logs -l app.kubernetes.io/part-of=tendril --all-containers --tail 30 || true
}

# A Postgres of this machine, for pods to reach.
database() {
  local answer superuser hba
  TENDRIL_DEV_SESSION="$$ $(awk '{print $22}' "/proc/$$/stat")"
  export TENDRIL_DEV_SESSION
  answer=$("$kube_root/dev" server start kube-proof 15)
  operator_url=$(value_of database_url <<<"$answer")
  superuser=$(value_of superuser_url <<<"$answer")
  psql -Xq "$superuser" -c "ALTER SYSTEM SET listen_addresses = '*'"
  hba=$(psql -XAt "$superuser" -c 'SHOW hba_file')
  printf 'host all all 10.246.0.0/16 scram-sha-256\n' >>"$hba"
  "$kube_root/dev" server crash kube-proof >/dev/null
  "$kube_root/dev" server resume kube-proof
  psql -Xq "$operator_url" -c 'CREATE DATABASE tendril'
  operator_url=${operator_url/127.0.0.1/$kube_api}
  operator_url=${operator_url%/*}/tendril
  runner_url="postgres://${operator_url#*@}?sslmode=disable"
}

query() { psql -XAt "$operator_url" -c "$1"; }

install_broker() {
  kubectl create namespace tendril >/dev/null
  kubectl label namespace tendril pod-security.kubernetes.io/enforce=restricted >/dev/null
  k create secret generic tendril-operator --from-literal=TENDRIL_DATABASE_URL="$operator_url?sslmode=disable" >/dev/null
  helm -n tendril install tendril "$kube_root/helm/tendril" --wait --timeout 90s --set image.repository=localhost/tendril-broker \
    --set image.tag=proof,image.pullPolicy=Never,database.existingSecret=tendril-operator >"$work/broker.notes"
  helm -n tendril test tendril --timeout 60s >"$work/broker.test"
}

runner_values=(--set image.repository=localhost/tendril-runner --set image.tag=proof --set image.pullPolicy=Never
  --set 'settings.sandbox.programs={/bin/sh,/bin/sleep}' --set settings.shutdown.finish_within_s=120)

install_runner() {
  local token
  token=$(broker cluster create acme --json | value_of token)
  [[ -n $token ]] || fail "cluster create printed no token"
  k create secret generic acme-runner --from-literal=TENDRIL_AGENT_TOKEN="$token" \
    --from-literal=TENDRIL_ARTIFACT_KEY="$("$kube_root/target/debug/tendril-runner" artifact-key)" >/dev/null
  # As if it had been rotated: of the right form, and refused.
  k create secret generic acme-wrong --from-literal=TENDRIL_AGENT_TOKEN="${token%????}AAAA" \
    --from-literal=TENDRIL_ARTIFACT_KEY="$("$kube_root/target/debug/tendril-runner" artifact-key)" >/dev/null
  runner_values+=(--set "database.url=$runner_url")
  helm -n tendril install acme "$kube_root/helm/tendril-runner" --wait --timeout 90s "${runner_values[@]}" \
    --set credentials.existingSecret=acme-runner >"$work/runner.notes"
  helm -n tendril test acme --timeout 60s >"$work/runner.test"
}

runner_pods() { k get pods -l app.kubernetes.io/instance=acme,app.kubernetes.io/component=runner -o jsonpath="{range .items[*]}{.metadata.name}{'\n'}{end}"; }

# begin SECONDS: submits an apply of that length, and returns when it has printed something; sets deployment.
begin() {
  deployment=$(printf '{"template": {"name": "hello"}, "inputs": {"name": "proof", "lines": %d, "seconds": %d}, "action": "apply", "engine": "tofu", "stateless": true}' \
    "$lines" "$1" | broker submit --cluster acme --file - --json | value_of id)
  [[ -n $deployment ]] || fail "submit printed no id"
  within 60 prints "line 2 of $lines"
}

prints() { broker logs "$deployment" | grep -q "$1"; }
has_ended() { [[ $(query "SELECT status FROM tendril.deployments WHERE id = '$deployment'") =~ ^(SUCCESS|FAILED|CANCELLED)$ ]]; }

# It ended well, was started once, and its log holds each line once.
ends_well() {
  local status log count
  within 120 has_ended || true
  status=$(query "SELECT status FROM tendril.deployments WHERE id = '$deployment'")
  log=$(broker logs "$deployment")
  [[ $status == SUCCESS ]] || { printf '%s\n' "$log"; broker status "$deployment"; fail "the deployment is $status"; }
  count=$(grep -c "line [0-9]* of $lines: Hello, proof!" <<<"$log")
  ((count == lines)) || { printf '%s\n' "$log"; fail "$count of $lines lines are in the log"; }
  [[ $(query "SELECT max(attempts) FROM tendril.jobs WHERE deployment_id = '$deployment'") == 1 ]] || fail "a job was begun twice"
}

evict() { # POD
  kubectl create --raw "/api/v1/namespaces/tendril/pods/$1/eviction" -f - >/dev/null \
    <<<'{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "'"$1"'", "namespace": "tendril"}}'
}

evicted_in_mid_apply() {
  local pod
  pod=$(runner_pods)
  begin 20
  evict "$pod"
  within 60 k rollout status deployment/acme-tendril-runner --timeout=5s
  ! has_ended || fail "the apply ended before the new runner was there: nothing was shown"
  ends_well
  within 60 pod_is_gone "$pod"
}

no_pods() { # RELEASE
  local pods
  pods=$(k get pods -l "app.kubernetes.io/instance=$1" -o name) && [[ -z $pods ]]
}

pod_is_gone() { # NAME
  local pod
  pod=$(k get pod "$1" --ignore-not-found -o name) && [[ -z $pod ]]
}

upgraded_in_mid_apply() {
  local pod
  pod=$(runner_pods)
  begin 20
  helm -n tendril upgrade acme "$kube_root/helm/tendril-runner" --wait --timeout 60s "${runner_values[@]}" \
    --set credentials.existingSecret=acme-runner,settings.slots=2 >/dev/null
  ! has_ended || fail "the apply ended before the rollout: nothing was shown"
  ends_well
  within 60 pod_is_gone "$pod"
}

# A wrong token stops the rollout, shows in the pod's status, and takes nothing away; the rollback leaves what runs.
wrong_token_and_rollback() {
  local good message
  good=$(runner_pods)
  if helm -n tendril upgrade acme "$kube_root/helm/tendril-runner" --wait --timeout 25s "${runner_values[@]}" \
    --set credentials.existingSecret=acme-wrong,settings.slots=2 >/dev/null 2>&1; then fail "an upgrade to a wrong token went well"; fi
  message=$(k get pods -l app.kubernetes.io/instance=acme,app.kubernetes.io/component=runner \
    -o jsonpath='{range .items[*].status.containerStatuses[*]}{.state.terminated.message}{.lastState.terminated.message}{"\n"}{end}')
  grep -q 'refuses role r_' <<<"$message" || fail "the pod's status does not tell of the token: $message"
  say_step "    the pod says: $(grep -o 'tendril-runner: .*' <<<"$message" | head -n 1)"
  begin 15
  helm -n tendril rollback acme --wait --timeout 60s >/dev/null
  ends_well
  [[ $(runner_pods) == "$good" ]] || fail "the rollback took the runner away that was in order"
}

kubelet_killed_in_mid_apply() {
  begin 20
  "$kube_here/node.sh" restart-kubelet
  within 60 kubectl wait --for=condition=Ready --timeout=5s node/node
  ends_well
}

# An apply that takes longer than a drain may: one interrupt, and the engine ends by itself.
interrupted_when_time_is_up() {
  local pod ended
  helm -n tendril upgrade acme "$kube_root/helm/tendril-runner" --wait --timeout 60s "${runner_values[@]}" \
    --set credentials.existingSecret=acme-runner,settings.shutdown.finish_within_s=2 >/dev/null
  within 60 one_runner
  pod=$(runner_pods)
  begin 60
  evict "$pod"
  within 40 has_ended
  ended=$(query "SELECT status || ': ' || error_message FROM tendril.deployments WHERE id = '$deployment'")
  [[ $ended == FAILED:*'interrupted because the runner was shut down'* ]] || fail "an apply that took too long for a drain told: $ended"
  within 60 pod_is_gone "$pod"
}

one_runner() { (($(runner_pods | grep -c .) == 1)); }

# A disk of its own: the pod is torn away without grace in mid-apply, and the next one of its name tells what became of it.
claim_goes_on() {
  local disk=$work/disk ended
  mkdir -p "$disk" && chmod 0777 "$disk"
  kubectl create -f - >/dev/null <<YAML
apiVersion: v1
kind: PersistentVolume
metadata: {name: proof}
spec: {capacity: {storage: 10Gi}, accessModes: [ReadWriteOnce], persistentVolumeReclaimPolicy: Retain, hostPath: {path: "$disk"}}
YAML
  helm -n tendril upgrade acme "$kube_root/helm/tendril-runner" --wait --timeout 90s "${runner_values[@]}" \
    --set credentials.existingSecret=acme-runner,state.kind=claim >/dev/null
  begin 30
  k delete pod acme-tendril-runner-0 --grace-period=0 --force >/dev/null 2>&1
  within 60 has_ended
  ended=$(query "SELECT status || ': ' || error_message FROM tendril.deployments WHERE id = '$deployment'")
  [[ $ended == FAILED:*'what that has changed is not known'* ]] || fail "a runner that was torn away told: $ended"
  prints 'the next process of its place goes on' || fail "the log does not tell that the runner was lost"
  within 60 k rollout status statefulset/acme-tendril-runner --timeout=5s
}

uninstalled() {
  local left
  begin 10
  helm -n tendril uninstall acme --wait --timeout 120s >/dev/null
  ends_well
  within 150 no_pods acme
  [[ $(query "SELECT count(*) FROM pg_stat_activity WHERE usename LIKE 'r\\_%'") == 0 ]] || fail "sessions of the runner are left"
  broker uninstall --yes >/dev/null
  helm -n tendril uninstall tendril --wait --timeout 60s >/dev/null
  within 60 no_pods tendril
  left=$(k get deployments,replicasets,statefulsets,pods,services,configmaps,serviceaccounts,poddisruptionbudgets,roles,rolebindings \
    -l app.kubernetes.io/part-of=tendril -o name)
  left+=$(k get persistentvolumeclaims -o name)
  [[ -z $left ]] || fail "objects are left: $left"
  [[ $(query "SELECT count(*) FROM pg_roles WHERE rolname ~ '^(r_[0-9a-f]{32}_|tendril_(runner|portal))'") == 0 ]] || fail "roles are left"
}

shift
[[ ${1:-} != --keep ]] || keep=yes
rm -rf "$work" && mkdir -p "$work"
trap leave EXIT
"$kube_here/node.sh" up
say_step "a node is ready"
"$kube_here/images.sh"
say_step "images are imported"
database
install_broker
say_step "tendril is installed, and its test passed"
install_runner
say_step "tendril-runner is installed, restricted, and its test passed"
k logs deployment/acme-tendril-runner | grep -q 'jobs are confined' || fail "the runner does not say that jobs are confined"
begin 2 && ends_well
say_step "a job ran to SUCCESS: $(broker logs "$deployment" 2>/dev/null | grep -m 1 -io 'sandbox.*')"
evicted_in_mid_apply
say_step "evicted in mid-apply: the apply went on to its end, its log is complete, another runner was there meanwhile"
upgraded_in_mid_apply
say_step "upgraded in mid-apply: the same"
wrong_token_and_rollback
say_step "a wrong token stopped its rollout, and a rollback in mid-apply took nothing away"
kubelet_killed_in_mid_apply
say_step "the kubelet was killed in mid-apply: the apply went on, its log is complete"
interrupted_when_time_is_up
say_step "evicted with less time than the apply took: it was interrupted once, and said so"
claim_goes_on
say_step "torn away with a disk of its own in mid-apply: the next pod of its name told what became of the apply"
[[ ${keep:-} == yes ]] || { uninstalled && say_step "uninstalled in mid-apply: the apply ended well, and nothing is left"; }
