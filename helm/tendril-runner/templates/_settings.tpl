{{- /* The runner's settings file: settings, with what the chart itself decides. */ -}}
{{- define "tendril-runner.settings" -}}
{{- $v := .Values -}}
{{- $settings := deepCopy $v.settings -}}
{{- $_ := set $settings "state_dir" "/var/lib/tendril/runner" -}}
{{- $_ := set $settings "templates_dir" "/usr/share/tendril/templates" -}}
{{- $_ := set $settings "agent_token_file" "/etc/tendril/secret/agent-token" -}}
{{- $_ := set $settings "artifact_key_file" "/etc/tendril/secret/artifact-key" -}}
{{- $_ := set $settings "http" (dict "listen" "0.0.0.0:9464") -}}
{{- /* In a container nothing outlives the runner's process. */ -}}
{{- $_ := set $settings.shutdown "hand_over" false -}}
{{- if $v.providerMirror.volume -}}
{{- $_ := set $settings.tools "provider_mirror" "/usr/share/tendril/providers" -}}
{{- end -}}
{{- $git := $v.gitCredentials -}}
{{- if $git.tokenKey -}}{{- $_ := set $settings.git "token_file" "/etc/tendril/git/token" -}}{{- end -}}
{{- if $git.sshKeyKey -}}{{- $_ := set $settings.git "ssh_key_file" "/etc/tendril/git/key" -}}{{- end -}}
{{- if $git.knownHostsKey -}}{{- $_ := set $settings.git "ssh_known_hosts_file" "/etc/tendril/git/known-hosts" -}}{{- end -}}
{{- if and $v.extraCa.git (or $v.extraCa.configMap $v.extraCa.secret) -}}
{{- $_ := set $settings.git "ca_file" "/etc/tendril/ca/ca.crt" -}}
{{- end -}}
{{- $identity := include "tendril-runner.identity" . | fromYaml -}}
{{- $_ := set $settings.tools "pass_env" (concat $settings.tools.pass_env $identity.pass | uniq) -}}
{{- $_ := set $settings.sandbox "read" (concat $settings.sandbox.read $identity.read | uniq) -}}
{{- if kindIs "slice" $settings.sandbox.connect -}}
{{- $_ := set $settings.sandbox "connect" (concat $settings.sandbox.connect $identity.ports | uniq) -}}
{{- end -}}
{{- range $name, $value := dict "HTTP_PROXY" $v.proxy.httpProxy "HTTPS_PROXY" $v.proxy.httpsProxy "NO_PROXY" $v.proxy.noProxy -}}
{{- if and $value (not (hasKey $settings.tools.env $name)) -}}
{{- $_ := set $settings.tools.env $name $value -}}
{{- $_ := set $settings.tools.env (lower $name) $value -}}
{{- end -}}
{{- end -}}
{{- toYaml $settings -}}
{{- end }}

{{- /* What jobs need for each kind of cloud identity: variables, files, ports. */ -}}
{{- define "tendril-runner.identity" -}}
{{- $known := dict
  "none" (dict "pass" list "read" list "ports" list)
  "irsa" (dict "pass" (list "AWS_ROLE_ARN" "AWS_WEB_IDENTITY_TOKEN_FILE" "AWS_REGION" "AWS_DEFAULT_REGION" "AWS_STS_REGIONAL_ENDPOINTS") "read" (list "/var/run/secrets/eks.amazonaws.com") "ports" list)
  "eksPodIdentity" (dict "pass" (list "AWS_CONTAINER_CREDENTIALS_FULL_URI" "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE" "AWS_REGION" "AWS_DEFAULT_REGION" "AWS_STS_REGIONAL_ENDPOINTS") "read" (list "/var/run/secrets/pods.eks.amazonaws.com") "ports" (list 80))
  "gke" (dict "pass" list "read" list "ports" (list 80))
  "azure" (dict "pass" (list "AZURE_CLIENT_ID" "AZURE_TENANT_ID" "AZURE_FEDERATED_TOKEN_FILE" "AZURE_AUTHORITY_HOST") "read" (list "/var/run/secrets/azure") "ports" list)
-}}
{{- toYaml (get $known .Values.cloudIdentity) -}}
{{- end }}

{{- /* Settings as TOML. JSON's texts, numbers, booleans and lists are TOML's, too; null is left out. */ -}}
{{- define "tendril-runner.toml" -}}
{{- range $key, $value := . }}
{{- if not (or (kindIs "map" $value) (kindIs "invalid" $value)) }}
{{ $key }} = {{ toJson $value }}
{{- end }}
{{- end }}
{{- range $table, $entries := . }}
{{- if kindIs "map" $entries }}

[{{ $table }}]
{{- range $key, $value := $entries }}
{{- if kindIs "map" $value }}
{{ $key }} = { {{ range $index, $name := keys $value | sortAlpha }}{{ if $index }}, {{ end }}{{ toJson $name }} = {{ toJson (get $value $name) }}{{ end }} }
{{- else if not (kindIs "invalid" $value) }}
{{ $key }} = {{ toJson $value }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
