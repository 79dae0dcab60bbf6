{{- define "tendril.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "tendril.podSecurityContext" -}}
{{- $security := .Values.podSecurity -}}
runAsNonRoot: true
{{- range $key := list "runAsUser" "runAsGroup" "fsGroup" }}
{{- $id := index $security $key }}
{{- if not (kindIs "invalid" $id) }}
{{ $key }}: {{ int64 $id }}
{{- end }}
{{- end }}
seccompProfile:
  type: {{ $security.seccompProfile.type }}
  {{- with $security.seccompProfile.localhostProfile }}
  localhostProfile: {{ . }}
  {{- end }}
{{- end }}

{{- define "tendril.databaseEnv" -}}
- name: TENDRIL_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: TENDRIL_DATABASE_URL
{{- end }}

{{- define "tendril.env" -}}
- name: RUST_LOG
  value: {{ .Values.log.level | quote }}
{{- range $name, $value := dict "TENDRIL_ARCHIVE_URL" .Values.archive.url "TENDRIL_ARCHIVE_ENDPOINT" .Values.archive.endpoint "TENDRIL_ARCHIVE_REGION" .Values.archive.region }}
{{- if and $value $.Values.archive.url }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}
{{- with .Values.archive.existingSecret }}
{{- range $key := list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" }}
- name: {{ $key }}
  valueFrom:
    secretKeyRef:
      name: {{ $.Values.archive.existingSecret }}
      key: {{ $key }}
{{- end }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "tendril.mounts" -}}
{{- $values := (first .).Values -}}
{{- if and (eq (last .) "api") $values.api.settings }}
- name: settings
  mountPath: /etc/tendril/api
  readOnly: true
{{- end }}
{{- if or $values.extraCa.configMap $values.extraCa.secret }}
- name: ca
  mountPath: /etc/tendril/ca
  readOnly: true
# The archive's client reads every file of this folder, beside the image's own authorities.
- name: ca
  mountPath: /etc/ssl/certs/tendril-extra-ca.pem
  subPath: ca.crt
  readOnly: true
{{- end }}
{{- with $values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "tendril.volumes" -}}
{{- $values := (first .).Values -}}
{{- if and (eq (last .) "api") $values.api.settings }}
- name: settings
  configMap:
    name: {{ include "tendril.name" (first .) }}-api
{{- end }}
{{- with $values.extraCa.configMap }}
- name: ca
  configMap:
    name: {{ . }}
    items:
      - key: {{ $values.extraCa.key }}
        path: ca.crt
{{- end }}
{{- with $values.extraCa.secret }}
- name: ca
  secret:
    secretName: {{ . }}
    items:
      - key: {{ $values.extraCa.key }}
        path: ca.crt
{{- end }}
{{- with $values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* What all containers of the chart have. Takes a list: the root, a container's resources, its component. */ -}}
{{- define "tendril.container" -}}
{{- $root := index . 0 -}}
image: {{ include "tendril.image" $root }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
{{- with $root.Values.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
resources:
  {{- toYaml (index . 1) | nindent 2 }}
securityContext:
  {{- include "tendril.securityContext" $root | nindent 2 }}
# A wrong address or credential ends the program with one line: it shows in the pod's status.
terminationMessagePolicy: FallbackToLogsOnError
{{- with include "tendril.mounts" (list $root (last .)) | trim }}
volumeMounts:
  {{- . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "tendril.affinity" -}}
{{- $root := first . -}}
{{- if $root.Values.affinity }}
{{- toYaml $root.Values.affinity }}
{{- else -}}
podAntiAffinity:
  preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      podAffinityTerm:
        topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            {{- include "tendril.selector" $root | nindent 12 }}
            app.kubernetes.io/component: {{ last . }}
{{- end }}
{{- end }}

{{- /* What all pods of the chart have. Takes a list: the root, then the component's name. */ -}}
{{- define "tendril.podBasics" -}}
{{- $root := first . -}}
serviceAccountName: {{ include "tendril.serviceAccount" $root }}
automountServiceAccountToken: {{ $root.Values.serviceAccount.automountToken }}
enableServiceLinks: false
securityContext:
  {{- include "tendril.podSecurityContext" $root | nindent 2 }}
{{- with include "tendril.volumes" . | trim }}
volumes:
  {{- . | nindent 2 }}
{{- end }}
{{- if ne (last .) "test" }}
affinity:
  {{- include "tendril.affinity" . | nindent 2 }}
{{- with $root.Values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- range $key := list "imagePullSecrets" "nodeSelector" "tolerations" "hostAliases" "dnsConfig" }}
{{- with get $root.Values $key }}
{{ $key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- with $root.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{- define "tendril.podMetadata" -}}
{{- $root := first . -}}
labels:
  {{- include "tendril.selector" $root | nindent 2 }}
  app.kubernetes.io/component: {{ last . }}
  {{- with $root.Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  kubectl.kubernetes.io/default-container: {{ last . }}
  {{- with $root.Values.database.url }}
  checksum/database: {{ sha256sum . }}
  {{- end }}
  {{- with $root.Values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
