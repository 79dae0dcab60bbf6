{{- define "tendril-runner.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "tendril-runner.podSecurityContext" -}}
{{- $security := .Values.podSecurity -}}
runAsNonRoot: true
{{- range $key := list "runAsUser" "runAsGroup" "fsGroup" }}
{{- $id := index $security $key }}
{{- if not (kindIs "invalid" $id) }}
{{ $key }}: {{ int64 $id }}
{{- end }}
{{- end }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: {{ $security.seccompProfile.type }}
  {{- with $security.seccompProfile.localhostProfile }}
  localhostProfile: {{ . }}
  {{- end }}
{{- end }}

{{- define "tendril-runner.env" -}}
- name: TENDRIL_CONFIG
  value: /etc/tendril/config/runner.toml
- name: TENDRIL_DATABASE_URL
{{- if .Values.database.url }}
  value: {{ .Values.database.url | quote }}
{{- else }}
  valueFrom:
    secretKeyRef:
      name: {{ include "tendril-runner.secret" . }}
      key: TENDRIL_DATABASE_URL
{{- end }}
- name: TENDRIL_RUNNER_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{- if .Values.state.place }}
- name: TENDRIL_PLACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{- end }}
- name: TENDRIL_LOG
  value: {{ .Values.log.level | quote }}
- name: TENDRIL_LOG_JSON
  value: {{ .Values.log.json | quote }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "tendril-runner.mounts" -}}
- name: config
  mountPath: /etc/tendril/config
  readOnly: true
- name: secret
  mountPath: /etc/tendril/secret
  readOnly: true
- name: state
  mountPath: /var/lib/tendril
- name: tmp
  mountPath: /tmp
{{- if .Values.gitCredentials.existingSecret }}
- name: git
  mountPath: /etc/tendril/git
  readOnly: true
{{- end }}
{{- if or .Values.extraCa.configMap .Values.extraCa.secret }}
- name: ca
  mountPath: /etc/tendril/ca
  readOnly: true
# Go programs read every file of this folder, beside the image's own authorities.
- name: ca
  mountPath: /etc/ssl/certs/tendril-extra-ca.pem
  subPath: ca.crt
  readOnly: true
{{- end }}
{{- if .Values.providerMirror.volume }}
- name: providers
  mountPath: /usr/share/tendril/providers
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "tendril-runner.volumes" -}}
- name: config
  configMap:
    name: {{ include "tendril-runner.name" . }}
- name: secret
  secret:
    secretName: {{ include "tendril-runner.secret" . }}
    # Owned by root and read by fsGroup: jobs cannot change it.
    defaultMode: 288 # 0440
    items:
      - key: TENDRIL_AGENT_TOKEN
        path: agent-token
      - key: TENDRIL_ARTIFACT_KEY
        path: artifact-key
- name: tmp
  emptyDir:
    sizeLimit: 1Gi
{{- $git := .Values.gitCredentials }}
{{- if $git.existingSecret }}
- name: git
  secret:
    secretName: {{ $git.existingSecret }}
    defaultMode: 288 # 0440
    items:
      {{- range $path, $key := dict "token" $git.tokenKey "key" $git.sshKeyKey "known-hosts" $git.knownHostsKey }}
      {{- if $key }}
      - key: {{ $key }}
        path: {{ $path }}
      {{- end }}
      {{- end }}
{{- end }}
{{- with .Values.extraCa.configMap }}
- name: ca
  configMap:
    name: {{ . }}
    items:
      - key: {{ $.Values.extraCa.key }}
        path: ca.crt
{{- end }}
{{- with .Values.extraCa.secret }}
- name: ca
  secret:
    secretName: {{ . }}
    items:
      - key: {{ $.Values.extraCa.key }}
        path: ca.crt
{{- end }}
{{- with .Values.providerMirror.volume }}
- name: providers
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "tendril-runner.stateVolume" -}}
- name: state
{{- if eq .Values.state.kind "ephemeral" }}
  ephemeral:
    volumeClaimTemplate:
      spec:
        {{- include "tendril-runner.claimSpec" . | nindent 8 }}
{{- else }}
  emptyDir:
    sizeLimit: {{ .Values.state.size }}
{{- end }}
{{- end }}

{{- define "tendril-runner.claimSpec" -}}
accessModes: [ReadWriteOnce]
{{- with .Values.state.storageClass }}
storageClassName: {{ . }}
{{- end }}
resources:
  requests:
    storage: {{ .Values.state.size }}
{{- end }}

{{- define "tendril-runner.container" -}}
name: runner
image: {{ include "tendril-runner.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
env:
  {{- include "tendril-runner.env" . | nindent 2 }}
{{- with .Values.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
ports:
  - name: metrics
    containerPort: 9464
    protocol: TCP
startupProbe:
  httpGet:
    path: /healthz
    port: metrics
  {{- toYaml .Values.probes.startup | nindent 2 }}
livenessProbe:
  httpGet:
    path: /healthz
    port: metrics
  {{- toYaml .Values.probes.liveness | nindent 2 }}
readinessProbe:
  httpGet:
    path: /readyz
    port: metrics
  {{- toYaml .Values.probes.readiness | nindent 2 }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  {{- include "tendril-runner.securityContext" . | nindent 2 }}
# A wrong setting, token or address ends the runner with one line: it shows in the pod's status.
terminationMessagePolicy: FallbackToLogsOnError
volumeMounts:
  {{- include "tendril-runner.mounts" . | nindent 2 }}
{{- end }}

{{- define "tendril-runner.podLabels" -}}
{{ include "tendril-runner.selector" . }}
app.kubernetes.io/component: runner
{{- if eq .Values.cloudIdentity "azure" }}
azure.workload.identity/use: "true"
{{- end }}
{{- with .Values.podLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "tendril-runner.podAnnotations" -}}
# Settings and credentials are read at the start: a change of them is a rollout.
checksum/config: {{ include "tendril-runner.settings" . | sha256sum }}
{{- if not .Values.credentials.existingSecret }}
checksum/secret: {{ printf "%s %s" .Values.credentials.token .Values.credentials.artifactKey | sha256sum }}
{{- end }}
kubectl.kubernetes.io/default-container: runner
{{- if .Values.keepFromNodeScaleDown }}
cluster-autoscaler.kubernetes.io/safe-to-evict: "false"
karpenter.sh/do-not-disrupt: "true"
{{- end }}
{{- with .Values.podAnnotations }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "tendril-runner.affinity" -}}
{{- if .Values.affinity }}
{{- toYaml .Values.affinity }}
{{- else -}}
podAntiAffinity:
  preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      podAffinityTerm:
        topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            {{- include "tendril-runner.selector" . | nindent 12 }}
{{- end }}
{{- end }}

{{- /* The pod's template, alike in a Deployment and in a StatefulSet but for the volume of its state. */ -}}
{{- define "tendril-runner.pod" -}}
metadata:
  labels:
    {{- include "tendril-runner.podLabels" . | nindent 4 }}
  annotations:
    {{- include "tendril-runner.podAnnotations" . | nindent 4 }}
spec:
  serviceAccountName: {{ include "tendril-runner.serviceAccount" . }}
  automountServiceAccountToken: {{ .Values.serviceAccount.automountToken }}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "tendril-runner.gracePeriod" . }}
  securityContext:
    {{- include "tendril-runner.podSecurityContext" . | nindent 4 }}
  {{- with .Values.initContainers }}
  initContainers:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - {{- include "tendril-runner.container" . | nindent 6 }}
  volumes:
    {{- include "tendril-runner.volumes" . | nindent 4 }}
    {{- if ne .Values.state.kind "claim" }}
    {{- include "tendril-runner.stateVolume" . | nindent 4 }}
    {{- end }}
  affinity:
    {{- include "tendril-runner.affinity" . | nindent 4 }}
  {{- range $key := list "imagePullSecrets" "nodeSelector" "tolerations" "topologySpreadConstraints" "hostAliases" "dnsConfig" }}
  {{- with get $.Values $key }}
  {{ $key }}:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  {{- range $key := list "priorityClassName" "runtimeClassName" }}
  {{- with get $.Values $key }}
  {{ $key }}: {{ . }}
  {{- end }}
  {{- end }}
{{- end }}
