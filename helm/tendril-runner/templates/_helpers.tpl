{{- define "tendril-runner.name" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "tendril-runner.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "tendril-runner.labels" -}}
{{ include "tendril-runner.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: tendril
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "tendril-runner.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end }}

{{- define "tendril-runner.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ default (include "tendril-runner.name" .) .Values.serviceAccount.name }}
{{- else -}}
{{ default "default" .Values.serviceAccount.name }}
{{- end -}}
{{- end }}

{{- define "tendril-runner.secret" -}}
{{ default (include "tendril-runner.name" .) .Values.credentials.existingSecret }}
{{- end }}

{{- /* Seconds that a shutdown may take by the runner's own settings, with 15 for its goodbye. */ -}}
{{- define "tendril-runner.shutdownSeconds" -}}
{{- $shutdown := .Values.settings.shutdown -}}
{{- add $shutdown.finish_within_s .Values.longestKillGraceSeconds (mul 2 $shutdown.report_within_s) 15 -}}
{{- end }}

{{- define "tendril-runner.gracePeriod" -}}
{{- $grace := .Values.terminationGracePeriodSeconds -}}
{{- if kindIs "invalid" $grace -}}{{ include "tendril-runner.shutdownSeconds" . }}{{- else -}}{{ int64 $grace }}{{- end -}}
{{- end }}

{{- define "tendril-runner.jobsPerRunner" -}}
{{- $jobs := .Values.autoscaling.jobsPerRunner -}}
{{- if kindIs "invalid" $jobs -}}{{ int64 .Values.settings.slots }}{{- else -}}{{ int64 $jobs }}{{- end -}}
{{- end }}

{{- /* Bytes of a size such as 10Gi; values.schema.json admits Mi, Gi and Ti. */ -}}
{{- define "tendril-runner.bytes" -}}
{{- $number := regexFind "^[0-9]+" . | int64 -}}
{{- $unit := regexFind "[MGT]i$" . -}}
{{- mul $number (get (dict "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776) $unit) -}}
{{- end }}
