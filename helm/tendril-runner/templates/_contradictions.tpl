{{- /* What a schema cannot see: values that contradict each other. Each message names the key and what would be right. */ -}}
{{- define "tendril-runner.contradictions" -}}
{{- $v := .Values -}}
{{- if not $v.image.repository -}}
{{- fail "image.repository: is missing. Build the image from helm/Containerfile, push it, and name it here" -}}
{{- end -}}
{{- if and $v.credentials.existingSecret (or $v.credentials.token $v.credentials.artifactKey) -}}
{{- fail "credentials.existingSecret: set either a Secret of yours, or credentials.token and credentials.artifactKey" -}}
{{- end -}}
{{- if not $v.credentials.existingSecret -}}
{{- if not $v.credentials.token -}}
{{- fail "credentials.existingSecret: is missing. Name a Secret with TENDRIL_AGENT_TOKEN and TENDRIL_ARTIFACT_KEY, or set credentials.token and credentials.artifactKey" -}}
{{- end -}}
{{- if not $v.credentials.artifactKey -}}
{{- fail "credentials.artifactKey: is missing. `tendril-runner artifact-key` prints one, the same for all runners of a cluster" -}}
{{- end -}}
{{- if not $v.database.url -}}
{{- fail "database.url: is missing, as in postgres://db.example.com:5432/tendril?sslmode=verify-full" -}}
{{- end -}}
{{- end -}}
{{- $need := include "tendril-runner.shutdownSeconds" . | int64 -}}
{{- $grace := include "tendril-runner.gracePeriod" . | int64 -}}
{{- if lt $grace $need -}}
{{- fail (printf "terminationGracePeriodSeconds: %d would kill an apply before settings.shutdown lets it end; it needs %d (finish_within_s + longestKillGraceSeconds + 2 x report_within_s + 15). Raise it, or lower settings.shutdown.finish_within_s" $grace $need) -}}
{{- end -}}
{{- include "tendril-runner.stateContradictions" . -}}
{{- include "tendril-runner.scalingContradictions" . -}}
{{- include "tendril-runner.networkContradictions" . -}}
{{- if and $v.rbac.create (not $v.serviceAccount.automountToken) -}}
{{- fail "rbac.create: gives rights that no pod could use. Set serviceAccount.automountToken=true too" -}}
{{- end -}}
{{- if and $v.rbac.create (not $v.rbac.rules) (not $v.rbac.clusterRules) -}}
{{- fail "rbac.create: there is nothing to allow. Set rbac.rules or rbac.clusterRules" -}}
{{- end -}}
{{- if and $v.extraCa.configMap $v.extraCa.secret -}}
{{- fail "extraCa.configMap: set either a ConfigMap or extraCa.secret" -}}
{{- end -}}
{{- if and (eq $v.podSecurity.seccompProfile.type "Localhost") (not $v.podSecurity.seccompProfile.localhostProfile) -}}
{{- fail "podSecurity.seccompProfile.localhostProfile: is missing; Localhost needs the path of a profile on the nodes" -}}
{{- end -}}
{{- $git := $v.gitCredentials -}}
{{- if and $git.tokenKey (not $v.settings.git.token_hosts) -}}
{{- fail "settings.git.token_hosts: must name the hosts that may see the token, such as [\"github.com\"]" -}}
{{- end -}}
{{- if and (or $git.tokenKey $git.sshKeyKey $git.knownHostsKey) (not $git.existingSecret) -}}
{{- fail "gitCredentials.existingSecret: is missing; the keys of gitCredentials are those of a Secret" -}}
{{- end -}}
{{- if and $git.sshKeyKey (not $git.knownHostsKey) -}}
{{- fail "gitCredentials.knownHostsKey: is missing; without known host keys ssh sources are refused" -}}
{{- end -}}
{{- range $v.extraEnv -}}
{{- if hasPrefix "TENDRIL_" .name -}}
{{- fail (printf "extraEnv: %s is set by the chart; use the value that it belongs to" .name) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "tendril-runner.stateContradictions" -}}
{{- $v := .Values -}}
{{- $size := include "tendril-runner.bytes" $v.state.size | int64 -}}
{{- if gt (mul 2 (int64 $v.settings.logs.spool_bytes)) $size -}}
{{- fail (printf "settings.logs.spool_bytes: %d is more than half of state.size (%s); work folders need room too" (int64 $v.settings.logs.spool_bytes) $v.state.size) -}}
{{- end -}}
{{- if and $v.state.place (ne $v.state.kind "claim") -}}
{{- fail (printf "state.place: a place outlives its pod, and state.kind=%s does not. Set state.kind=claim" $v.state.kind) -}}
{{- end -}}
{{- if and (eq $v.state.kind "emptyDir") $v.state.storageClass -}}
{{- fail "state.storageClass: state.kind=emptyDir has none. Set state.kind=claim or ephemeral" -}}
{{- end -}}
{{- $stuck := and (eq (toString $v.rollout.maxSurge) "0") (eq (toString $v.rollout.maxUnavailable) "0") -}}
{{- if and (ne $v.state.kind "claim") $stuck -}}
{{- fail "rollout.maxSurge: with rollout.maxUnavailable=0 it must be at least 1, or no rollout could begin" -}}
{{- end -}}
{{- end }}

{{- define "tendril-runner.scalingContradictions" -}}
{{- $scaling := .Values.autoscaling -}}
{{- if ne $scaling.kind "none" -}}
{{- if gt (int64 $scaling.minReplicas) (int64 $scaling.maxReplicas) -}}
{{- fail (printf "autoscaling.minReplicas: %d is more than autoscaling.maxReplicas (%d)" (int64 $scaling.minReplicas) (int64 $scaling.maxReplicas)) -}}
{{- end -}}
{{- if and (eq $scaling.kind "hpa") (lt (int64 $scaling.minReplicas) 1) -}}
{{- fail "autoscaling.minReplicas: a HorizontalPodAutoscaler needs at least 1; only autoscaling.kind=keda goes to 0" -}}
{{- end -}}
{{- if and (eq $scaling.kind "keda") (not $scaling.keda.connectionSecret) -}}
{{- fail "autoscaling.keda.connectionSecret: is missing; KEDA reads the queue as a role of its own" -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "tendril-runner.networkContradictions" -}}
{{- $v := .Values -}}
{{- range $key, $url := dict "proxy.httpProxy" $v.proxy.httpProxy "proxy.httpsProxy" $v.proxy.httpsProxy "settings.egress.upstream" $v.settings.egress.upstream -}}
{{- if contains "@" ($url | default "") -}}
{{- fail (printf "%s: its password would stand in a ConfigMap. Put HTTPS_PROXY and HTTP_PROXY into a Secret, name it in extraEnvFrom, and name both in settings.tools.pass_env" $key) -}}
{{- end -}}
{{- end -}}
{{- $egress := $v.settings.egress -}}
{{- if and (eq $egress.mode "enforce") (has $v.cloudIdentity (list "gke" "eksPodIdentity")) (not (has "80" (toStrings $egress.direct_ports))) -}}
{{- fail (printf "cloudIdentity: %s answers at a link-local address, which settings.egress.mode=enforce closes. Take irsa or azure, or a token of your own" $v.cloudIdentity) -}}
{{- end -}}
{{- $host := regexReplaceAll "[/?].*$" (regexReplaceAll "^[a-z]+://" $v.database.url "") "" -}}
{{- $port := regexFind ":[0-9]+$" $host | trimPrefix ":" | default "5432" -}}
{{- if and $v.networkPolicy.enabled $v.database.url (ne $port (toString $v.networkPolicy.databasePort)) -}}
{{- fail (printf "networkPolicy.databasePort: %v would cut the runner off from database.url, whose port is %s" $v.networkPolicy.databasePort $port) -}}
{{- end -}}
{{- end }}
