{{/* Name of the chart, for labels. */}}
{{- define "plumbline.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{/* Name of the release's objects. 50 characters leave room for a suffix. */}}
{{- define "plumbline.fullname" -}}
{{- $name := include "plumbline.name" . }}
{{- $full := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) }}
{{- default $full .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{/* Name of what is outside the release's namespace, where a release of the same name in another one has its own. */}}
{{- define "plumbline.outsideName" -}}
{{ include "plumbline.fullname" . }}:{{ .Release.Namespace }}
{{- end }}

{{- define "plumbline.serviceAccountName" -}}
{{- default (.Values.serviceAccount.create | ternary (include "plumbline.fullname" .) "default") .Values.serviceAccount.name }}
{{- end }}

{{/* What the pods of the operator are found by. It must not change in an upgrade. */}}
{{- define "plumbline.selectorLabels" -}}
app.kubernetes.io/name: {{ include "plumbline.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{/* What the pod of `helm test` is found by. */}}
{{- define "plumbline.testLabels" -}}
app.kubernetes.io/name: {{ include "plumbline.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: test
{{- end }}

{{/* Labels of every object, but for its component. */}}
{{- define "plumbline.commonLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: plumbline
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "plumbline.labels" -}}
{{ include "plumbline.selectorLabels" . }}
{{ include "plumbline.commonLabels" . }}
{{- end }}

{{/* The reference of an image: a list of its value and the default tag. */}}
{{- define "plumbline.image" -}}
{{- $image := index . 0 }}
{{- $image.repository }}:{{ default (index . 1) $image.tag }}
{{- with $image.digest }}@{{ . }}{{ end }}
{{- end }}

{{- define "plumbline.operatorImage" -}}
{{- $ask := "image.repository: expected the registry and path of the operator's image, found none; build it and push it to your registry" }}
{{- $_ := required $ask .Values.image.repository }}
{{- include "plumbline.image" (list .Values.image .Chart.AppVersion) }}
{{- end }}
