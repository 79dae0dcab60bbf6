{{- /* What a schema cannot see: values that contradict each other. Each message names the key and what would be right. */ -}}
{{- define "tendril.contradictions" -}}
{{- $v := .Values -}}
{{- if not $v.image.repository -}}
{{- fail "image.repository: is missing. Build the image from helm/Containerfile, push it, and name it here" -}}
{{- end -}}
{{- if and $v.database.existingSecret $v.database.url -}}
{{- fail "database.existingSecret: set either a Secret of yours, or database.url" -}}
{{- end -}}
{{- if not (or $v.database.existingSecret $v.database.url) -}}
{{- fail "database.existingSecret: is missing. Name a Secret with the key TENDRIL_DATABASE_URL, or set database.url" -}}
{{- end -}}
{{- if and $v.extraCa.configMap $v.extraCa.secret -}}
{{- fail "extraCa.configMap: set either a ConfigMap or extraCa.secret" -}}
{{- end -}}
{{- if and (eq $v.podSecurity.seccompProfile.type "Localhost") (not $v.podSecurity.seccompProfile.localhostProfile) -}}
{{- fail "podSecurity.seccompProfile.localhostProfile: is missing; Localhost needs the path of a profile on the nodes" -}}
{{- end -}}
{{- if and $v.archive.existingSecret (not $v.archive.url) -}}
{{- fail "archive.url: is missing; archive.existingSecret alone archives nothing" -}}
{{- end -}}
{{- if and $v.api.enabled (not $v.api.existingSecret) -}}
{{- fail "api.existingSecret: is missing. Name a Secret with the key TENDRIL_DATABASE_URL of a role of the API's own" -}}
{{- end -}}
{{- if and $v.api.enabled (eq $v.api.existingSecret (include "tendril.secret" .)) -}}
{{- fail "api.existingSecret: is the operator's Secret, with more rights than anybody outside should be near to" -}}
{{- end -}}
{{- if and $v.api.ingress.enabled (not $v.api.enabled) -}}
{{- fail "api.ingress.enabled: leads nowhere without api.enabled=true" -}}
{{- end -}}
{{- if and $v.api.ingress.enabled (not $v.api.ingress.host) -}}
{{- fail "api.ingress.host: is missing" -}}
{{- end -}}
{{- $host := regexReplaceAll "[/?].*$" (regexReplaceAll "^.*(@|://)" $v.database.url "") "" -}}
{{- $port := regexFind ":[0-9]+$" $host | trimPrefix ":" | default "5432" -}}
{{- if and $v.networkPolicy.enabled $v.database.url (ne $port (toString $v.networkPolicy.databasePort)) -}}
{{- fail (printf "networkPolicy.databasePort: %v would cut the pods off from database.url, whose port is %s" $v.networkPolicy.databasePort $port) -}}
{{- end -}}
{{- range concat $v.extraEnv $v.api.extraEnv -}}
{{- if has .name (list "TENDRIL_DATABASE_URL" "TENDRIL_BROKER_LISTEN" "TENDRIL_API_LISTEN" "TENDRIL_API_CONFIG" "TENDRIL_LOG" "TENDRIL_LOG_JSON" "RUST_LOG" "TENDRIL_ARCHIVE_URL" "TENDRIL_ARCHIVE_ENDPOINT" "TENDRIL_ARCHIVE_REGION") -}}
{{- fail (printf "extraEnv: %s is set by the chart; use the value that it belongs to" .name) -}}
{{- end -}}
{{- end -}}
{{- end }}
