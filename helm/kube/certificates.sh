# shellcheck shell=bash
# A certificate authority for one run, and what the parts of a Kubernetes prove to each other with it.
# shellcheck disable=SC2154 # the names of settings.sh

# certificate NAME SUBJECT clientAuth|serverAuth [ALTERNATIVE NAMES]
certificate() {
  local more=(-addext "basicConstraints=critical,CA:FALSE" -addext "extendedKeyUsage=$3")
  [[ -z ${4:-} ]] || more+=(-addext "subjectAltName=$4")
  openssl req -x509 -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -CA ca.crt -CAkey ca.key \
    -keyout "$1.key" -out "$1.crt" -subj "$2" "${more[@]}" 2>/dev/null
}

# kubeconfig NAME: to the API server with that client certificate.
kubeconfig() {
  cat >"$1.kubeconfig" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: proof, cluster: {server: "https://$kube_api:6443", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: $1, user: {client-certificate-data: $(base64 -w0 "$1.crt"), client-key-data: $(base64 -w0 "$1.key")}}]
contexts: [{name: proof, context: {cluster: proof, user: $1}}]
current-context: proof
YAML
}

make_certificates() ( # the mask is for these files only: what starts later makes folders for others
  local name
  mkdir -p "$kube_run/pki"
  cd "$kube_run/pki" || return 1
  umask 077
  openssl req -x509 -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout ca.key -out ca.crt -subj /CN=tendril-kube 2>/dev/null
  certificate apiserver /CN=kube-apiserver serverAuth "IP:$kube_api,IP:${kube_services%.0/*}.1,DNS:kubernetes.default.svc"
  certificate kubelet-server /CN=node serverAuth "IP:$kube_node_ip,DNS:node"
  certificate to-kubelet /CN=apiserver-to-kubelet clientAuth
  certificate admin /O=system:masters/CN=admin clientAuth
  certificate controller-manager /CN=system:kube-controller-manager clientAuth
  certificate scheduler /CN=system:kube-scheduler clientAuth
  certificate node /O=system:nodes/CN=system:node:node clientAuth
  for name in admin controller-manager scheduler node; do kubeconfig "$name"; done
  openssl genrsa -out accounts.key 2048 2>/dev/null
  openssl rsa -in accounts.key -pubout -out accounts.pub 2>/dev/null
)
