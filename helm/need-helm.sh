# shellcheck shell=bash
# What the charts' tests need: a real Helm and a real Prometheus, built from their modules, and schemas of Kubernetes and of
# operators' objects. All of it comes from registries, pinned by checksums in helm/tools and here. `source` it from ./dev, whose functions
# it calls; it exports where the tests find things.
# shellcheck disable=SC2154 # state is the caller's

helm_tools=$state/helm
helm_kubernetes=(1.27.0 1.31.0 1.34.0 1.37.0) # those of helm/tests/charts/chart.rs

helm_go_version=1.26.8
helm_go_sha256=30c2b1bf7dcc88d3eb0a1364e47ddd9128edb3110a30e8a0ef61cd5856b31de7

# Go itself, where there is none: as its module proxy serves it. A Go of 1.21 or newer fetches what it lacks by itself.
helm_go() {
  local name=toolchain@v0.0.1-go$helm_go_version.linux-amd64 folder=$state/go proxy=${GOPROXY:-https://proxy.golang.org}
  local found
  if found=$(go version 2>/dev/null) && [[ $found =~ go1\.([0-9]+) ]] && ((BASH_REMATCH[1] >= 21)); then return 0; fi
  if [[ ! -x $folder/bin/go ]]; then
    pinned_for_this_machine || return 1
    head_line "taking Go $helm_go_version, for Helm (72 MB to download)"
    fetch "sha256:$helm_go_sha256" "$state/go.zip" "${proxy%%,*}/golang.org/toolchain/@v/${name#toolchain@}.zip" || return 1
    rm -rf "$folder" "$folder.new"
    run python3 -m zipfile -e "$state/go.zip" "$folder.new" || return 1
    mv "$folder.new/golang.org/$name" "$folder"
    chmod +x "$folder"/bin/* "$folder"/pkg/tool/*/*
    rm -rf "$folder.new" "$state/go.zip"
  fi
  PATH=$folder/bin:$PATH
}

helm_build() {
  GOFLAGS=-mod=readonly go build -C helm/tools -trimpath -o "$helm_tools/helm" helm.sh/helm/v3/cmd/helm
}

helm_schemas() {
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes \
    --requirement helm/tools/requirements.txt --dest "$helm_tools/wheel" || return 1
  python3 - "$helm_tools" "${helm_kubernetes[@]}" <<'PYTHON'
import glob, sys, zipfile
folder, versions = sys.argv[1], sys.argv[2:]
wheel = zipfile.ZipFile(glob.glob(folder + "/wheel/*.whl")[0])
for version in versions:
    path = f"kubernetes_validate/kubernetes-json-schema/v{version}-local-strict/_definitions.json"
    with open(f"{folder}/schemas/v{version}.json", "wb") as out:
        out.write(wheel.read(path))
PYTHON
  rm -rf "$helm_tools/wheel"
}

helm_definitions() {
  local module sum path found
  while read -r module sum path; do
    found=$(go mod download -json "$module") || return 1
    [[ $(sed -n 's/.*"Sum": "\(.*\)".*/\1/p' <<<"$found") == "$sum" ]] || { echo "$module is not the pinned one"; return 1; }
    cp "$(sed -n 's/.*"Dir": "\(.*\)".*/\1/p' <<<"$found")/$path" "$helm_tools/schemas/${path##*_}" || return 1
  done <helm/tools/definitions.txt
  chmod -R u+w "$helm_tools/schemas"
}

helm_install() {
  rm -rf "$helm_tools"
  mkdir -p "$helm_tools/schemas"
  helm_build && helm_schemas && helm_definitions
}

need_helm() {
  local wanted
  helm_go || { missing_in_test "Go could not be had to build Helm with: the charts' tests are skipped"; return 0; }
  wanted=$(cat helm/tools/*.* helm/need-helm.sh | sha256sum)
  if [[ $(cat "$helm_tools/installed" 2>/dev/null) != "$wanted" ]]; then
    head_line "building Helm, and taking schemas of Kubernetes (about 2 minutes, once)"
    run helm_install >"$state/helm.log" 2>&1 || fail "Helm could not be built, see .state/helm.log"
    printf '%s\n' "$wanted" >"$helm_tools/installed"
  fi
  export TENDRIL_TEST_HELM=$helm_tools/helm TENDRIL_TEST_KUBE_SCHEMAS=$helm_tools/schemas
}

# Without the clients of every cloud that it could ask for targets: a third of the size and of the time.
prometheus_install() {
  local program
  for program in prometheus promtool; do
    GOFLAGS=-mod=readonly go build -C helm/tools/prometheus -trimpath -tags remove_all_sd -o "$state/prometheus/$program" \
      "github.com/prometheus/prometheus/cmd/$program" || return 1
  done
}

need_prometheus() {
  local wanted folder=$state/prometheus
  helm_go || { missing_in_test "Go could not be had to build Prometheus with: dashboards and alerts are not tried"; return 0; }
  wanted=$(cat helm/tools/prometheus/* | sha256sum)
  if [[ $(cat "$folder/installed" 2>/dev/null) != "$wanted" ]]; then
    head_line "building Prometheus (about 5 minutes, once)"
    mkdir -p "$folder"
    run prometheus_install >"$state/prometheus.log" 2>&1 || fail "Prometheus could not be built, see .state/prometheus.log"
    printf '%s\n' "$wanted" >"$folder/installed"
  fi
  export TENDRIL_TEST_PROMETHEUS=$folder/prometheus TENDRIL_TEST_PROMTOOL=$folder/promtool
}

need_helm
need_prometheus
