{{/* (context, monitor): one endpoint for Headwater and one for CoreDNS, with the jobs that rules and dashboard expect. */}}
{{- define "headwater.endpoints" -}}
{{- $ := index . 0 -}}
{{- $monitor := index . 1 -}}
{{- $twin := ternary (list (list "headwater-twin" $.Values.monitoring.job)) (list) $.Values.headwater.twin -}}
{{- range concat (list (list "headwater-http" $.Values.monitoring.job)) $twin (list (list "metrics" $.Values.monitoring.corednsJob)) }}
- port: {{ index . 0 }}
  interval: {{ $monitor.interval }}
  {{- with $monitor.scrapeTimeout }}
  scrapeTimeout: {{ . }}
  {{- end }}
  relabelings:
    # A pod that is not Running is no target: while it pulls its image, nobody is down.
    - action: keep
      sourceLabels: [__meta_kubernetes_pod_phase]
      regex: Running
    - targetLabel: job
      replacement: {{ index . 1 | toJson }}
    {{- with $monitor.relabelings }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $monitor.metricRelabelings }}
  metricRelabelings:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end -}}
