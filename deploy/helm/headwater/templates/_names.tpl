{{/* The name of all objects: at most 52 characters, so that there is room for "-metrics" and hashes. */}}
{{- define "headwater.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains "headwater" .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-headwater" .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* (context, Corefile): a name with its content's hash. */}}
{{- define "headwater.corefileName" -}}
{{- printf "%s-%s" (include "headwater.fullname" (index . 0)) (index . 1 | sha256sum | trunc 10) -}}
{{- end -}}

{{- define "headwater.serviceName" -}}
{{- .Values.service.name | default (include "headwater.fullname" .) -}}
{{- end -}}

{{- define "headwater.serviceAccountName" -}}
{{- if eq .Values.mode "sidecar" -}}
{{- .Values.sidecar.serviceAccount -}}
{{- else if .Values.serviceAccount.name -}}
{{- .Values.serviceAccount.name -}}
{{- else if .Values.serviceAccount.create -}}
{{- include "headwater.fullname" . -}}
{{- else -}}
{{- fail "serviceAccount.name: with serviceAccount.create=false, name the ServiceAccount that is there" -}}
{{- end -}}
{{- end -}}

{{/* Between siblings: the Service, the Secret and the policy. */}}
{{- define "headwater.peersName" -}}
{{- .Values.peers.service | default (printf "%s-peers" (include "headwater.fullname" .)) -}}
{{- end -}}

{{- define "headwater.peersSecret" -}}
{{- .Values.peers.secret | default (include "headwater.peersName" .) -}}
{{- end -}}

{{/* Where the pods are. */}}
{{- define "headwater.podNamespace" -}}
{{- if eq .Values.mode "sidecar" }}{{ .Values.sidecar.namespace }}{{ else }}{{ .Release.Namespace }}{{ end -}}
{{- end -}}

{{- define "headwater.rbacName" -}}
{{- .Values.rbac.name | default (printf "%s:%s" .Release.Namespace (include "headwater.fullname" .)) -}}
{{- end -}}

{{/* Labels that choose the pods. */}}
{{- define "headwater.selectorLabels" -}}
{{- if eq .Values.mode "sidecar" -}}
{{- toYaml (.Values.sidecar.podLabels | default (dict "k8s-app" "kube-dns")) -}}
{{- else if .Values.selectorLabels -}}
{{- toYaml .Values.selectorLabels -}}
{{- else -}}
app.kubernetes.io/name: headwater
app.kubernetes.io/instance: {{ .Release.Name | toJson }}
{{- end -}}
{{- end -}}

{{/* Labels of pods. `kubectl headwater` and deploy/monitoring look for the first. */}}
{{- define "headwater.podLabels" -}}
{{- $own := dict "app.kubernetes.io/name" "headwater" -}}
{{- toYaml (merge (dict) (include "headwater.selectorLabels" . | fromYaml) .Values.podLabels $own) -}}
{{- end -}}

{{/* Labels of objects. A dict of further ones goes first. */}}
{{- define "headwater.labels" -}}
{{- $own := dict
  "app.kubernetes.io/name" "headwater"
  "app.kubernetes.io/instance" .Release.Name
  "app.kubernetes.io/version" .Chart.AppVersion
  "app.kubernetes.io/managed-by" .Release.Service
  "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_") -}}
{{- toYaml (merge (dict) $own .Values.commonLabels) -}}
{{- end -}}

{{/* (context, labels): an object's labels, with labels of its own before them. */}}
{{- define "headwater.labelsWith" -}}
{{- toYaml (merge (dict) (index . 1) (include "headwater.labels" (index . 0) | fromYaml)) -}}
{{- end -}}

{{/* (image, default tag): REPOSITORY:TAG or REPOSITORY@DIGEST. */}}
{{- define "headwater.image" -}}
{{- $image := index . 0 -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository ($image.tag | default (index . 1)) -}}
{{- end -}}
{{- end -}}
