{{/* The name of everything in a release. */}}
{{- define "nativetok.name" -}}
{{- $name := ternary .Release.Name (printf "%s-nativetok" .Release.Name) (contains "nativetok" .Release.Name) -}}
{{- $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{/* What selects the release's pods. It must never change, or upgrades fail. */}}
{{- define "nativetok.selector" -}}
app.kubernetes.io/name: nativetok
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "nativetok.labels" -}}
{{ include "nativetok.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{/* A value as text. Numbers as JSON, because millions would be written 5e+07 otherwise. */}}
{{- define "nativetok.text" -}}
{{- kindIs "string" . | ternary . (toJson .) -}}
{{- end -}}

{{/* What the schema cannot refuse, because it depends on other values. */}}
{{- define "nativetok.checkJob" -}}
{{- if .Values.config -}}
{{- fail "config is for mode serve; with mode tokenize, job.options takes the options of `nativetok tokenize`" -}}
{{- end -}}
{{- if not .Values.job.inputVolume -}}
{{- fail "job.inputVolume must say which volume holds the data set" -}}
{{- end -}}
{{- if not .Values.job.outputVolume -}}
{{- fail "job.outputVolume must say which volume the tokens go to" -}}
{{- end -}}
{{- end -}}

{{- define "nativetok.checkService" -}}
{{- $guard := dig "guard" "none" .Values.config -}}
{{- if and (eq $guard "metrics") (not .Values.apiKeysSecret) -}}
{{- fail "config.guard is metrics, but without apiKeysSecret nobody has a key" -}}
{{- end -}}
{{- if and (eq $guard "metrics") .Values.serviceMonitor.enabled (not .Values.serviceMonitor.keySecret) -}}
{{- fail "config.guard is metrics, so serviceMonitor.keySecret must name the secret with Prometheus' key" -}}
{{- end -}}
{{- if and .Values.networkPolicy.clients (not .Values.networkPolicy.prometheus) -}}
{{- fail "networkPolicy.clients lets in nobody else, so networkPolicy.prometheus must say where Prometheus runs" -}}
{{- end -}}
{{- if and (index .Values.config "otlp-endpoint") (not .Values.networkPolicy.egress) -}}
{{- fail "config.otlp-endpoint is set, so networkPolicy.egress must let traces out to the collector, and names to DNS" -}}
{{- end -}}
{{- if gt (int .Values.autoscaling.min) (int .Values.autoscaling.max) -}}
{{- fail (printf "autoscaling.min (%v) is larger than autoscaling.max (%v)" .Values.autoscaling.min .Values.autoscaling.max) -}}
{{- end -}}
{{- if and (eq .Values.autoscaling.kind "keda") (not .Values.autoscaling.prometheusUrl) -}}
{{- fail "autoscaling.kind is keda, so autoscaling.prometheusUrl must say where Prometheus answers" -}}
{{- end -}}
{{- if and (eq .Values.autoscaling.kind "keda") (not .Values.serviceMonitor.enabled) -}}
{{- fail "autoscaling.kind is keda, whose queries read the labels that serviceMonitor.enabled gives the metrics" -}}
{{- end -}}
{{- if and (eq (int .Values.rollingUpdate.maxSurge) 0) (eq (int .Values.rollingUpdate.maxUnavailable) 0) -}}
{{- fail "rollingUpdate: with maxSurge 0 and maxUnavailable 0 no pod could ever be replaced" -}}
{{- end -}}
{{- end -}}

{{- define "nativetok.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
# Otherwise the owner of every file of a volume is set again each time a pod starts.
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "nativetok.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end -}}

{{/* What pods of the service and of the job have in common. */}}
{{- define "nativetok.pod" -}}
automountServiceAccountToken: false
# With them a Service named nativetok would set NATIVETOK_PORT to something like tcp://10.0.0.7:8080.
enableServiceLinks: false
securityContext: {{- include "nativetok.podSecurity" . | nindent 2 }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* What both containers have in common. */}}
{{- define "nativetok.container" -}}
image: {{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext: {{- include "nativetok.containerSecurity" . | nindent 2 }}
resources:
  {{- range list "requests" "limits" }}
  {{ . }}:
    cpu: {{ $.Values.resources.cpu | quote }}
    memory: {{ $.Values.resources.memory }}
    {{- with $.Values.gpu.count }}
    nvidia.com/gpu: {{ . }}
    {{- end }}
  {{- end }}
{{- end -}}

{{/* CUDA compiles kernels for cards that are newer than it and keeps them; an engine that is replaced finds them here. */}}
{{- define "nativetok.cudaCache" -}}
/var/cache/cuda
{{- end -}}

{{/* Optimised graphs; the only place where the service writes. */}}
{{- define "nativetok.cache" -}}
/var/cache/nativetok
{{- end -}}

{{- define "nativetok.cacheVolume" -}}
name: cache
{{ toYaml (.Values.cacheVolume | default (dict "emptyDir" dict)) }}
{{- end -}}
