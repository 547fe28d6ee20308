{{/* The same as deploy/overlays/patch-coredns/sidecar.yaml. */}}
{{- define "headwater.patch" -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .Values.sidecar.deployment | toJson }}
  namespace: {{ .Values.sidecar.namespace | toJson }}
spec:
  template:
    spec:
      initContainers:
        {{- range include "headwater.instances" . | fromJsonArray }}
        - {{ include "headwater.container" (list $ true .) | nindent 10 | trim }}
        {{- end }}
      containers:
        - name: {{ .Values.sidecar.container | toJson }}
          {{- with include "headwater.corednsEnv" (list . .Values.sidecar.container) | trim }}
          env:
            {{- . | nindent 12 }}
          {{- end }}
          # Take `lameduck` out of the Corefile's `health`: CoreDNS 1.15 answers SERVFAIL meanwhile.
          {{- include "headwater.lifecycle" . | nindent 10 }}
          volumeMounts:
            - name: headwater-sockets
              mountPath: /run/headwater
      volumes:
        {{- include "headwater.volumes" . | nindent 8 }}
{{- end -}}

{{/* Values of the chart coredns/coredns. It has no lifecycle: the patch adds that. */}}
{{- define "headwater.corednsValues" -}}
initContainers:
  {{- range include "headwater.instances" . | fromJsonArray }}
  - {{ include "headwater.container" (list $ true .) | nindent 4 | trim }}
  {{- end }}
extraVolumes:
  {{- include "headwater.volumes" . | nindent 2 }}
extraVolumeMounts:
  - name: headwater-sockets
    mountPath: /run/headwater
{{- with include "headwater.corednsEnv" (list . "coredns") | trim }}
env:
  {{- . | nindent 2 }}
{{- end }}
servers:
  {{- $upstreams := include "headwater.upstreams" . }}
  {{- $names := concat .Values.headwater.zones .Values.headwater.multiclusterZones }}
  {{- $reverse := include "headwater.reverseZones" . | fromJsonArray }}
  - zones:
      {{- range ternary $names (concat $names $reverse | uniq) .Values.coredns.reverseForward }}
      - zone: {{ . }}
      {{- end }}
    port: 53
    plugins:
      - name: errors
      - name: prometheus
        parameters: 0.0.0.0:9153
      - name: grpc
        parameters: .{{ $upstreams }}
        configBlock: policy round_robin
  {{- if and $reverse .Values.coredns.reverseForward }}
  - zones:
      {{- range $reverse }}
      - zone: {{ . }}
      {{- end }}
    port: 53
    plugins:
      - name: errors
      - name: prometheus
        parameters: 0.0.0.0:9153
      - name: forward
        parameters: . 127.0.0.1:5399
        configBlock: |-
          max_fails 0
          next NXDOMAIN
      - name: forward
        parameters: . {{ join " " .Values.coredns.forward }}
  - zones:
      {{- range $reverse }}
      - zone: {{ . }}
      {{- end }}
    port: 5399
    plugins:
      - name: bind
        parameters: 127.0.0.1
      - name: errors
      - name: grpc
        parameters: .{{ $upstreams }}
        configBlock: policy round_robin
  {{- end }}
  # … and your "." block, with `health` without `lameduck`.
{{- end -}}
