{{/*
Headwater's arguments. What is the default of `headwater serve` is left out, but for the six that
deploy/base spells out too. Each text goes through toJson: no value can end its word. The twin takes the
store of the first over the pod's loopback. (context, whether they are the twin's)
*/}}
{{- define "headwater.args" -}}
{{- $twin := index . 1 -}}
{{- with index . 0 -}}
{{- $h := .Values.headwater -}}
- serve
{{- range $h.zones }}
- {{ printf "--zone=%s" . | toJson }}
{{- end }}
{{- range include "headwater.reverseGiven" . | fromJsonArray }}
- {{ printf "--reverse-zone=%s" . | toJson }}
{{- end }}
{{- range $h.multiclusterZones }}
- {{ printf "--multicluster-zone=%s" . | toJson }}
{{- end }}
{{- range $h.namespaces }}
- {{ printf "--namespace=%s" . | toJson }}
{{- end }}
{{- range $h.upstreams }}
- {{ printf "--upstream=%s" . | toJson }}
{{- end }}
- --listen=unix:{{ include "headwater.socket" (list . $twin) }}
- --workers={{ include "headwater.workersEach" . }}
- --state-dir=/var/lib/headwater
- --admin=0.0.0.0:{{ ternary 9355 9353 $twin }}
- --log-format={{ $h.logFormat }}
{{- range list
  (list "pods" $h.pods "disabled")
  (list "namespace-labels" $h.namespaceLabels "")
  (list "labels" $h.labels "")
  (list "ttl" ($h.ttl | int64) 5)
  (list "negative-ttl" ($h.negativeTtl | int64) 5)
  (list "max-staleness" $h.maxStaleness "0")
  (list "policy" $h.policy "")
  (list "transport" $h.transport "native")
  (list "list" $h.list "pages")
  (list "audit-interval" $h.auditInterval "1h")
  (list "second-opinion" (ternary "on" "off" $h.secondOpinion) "on")
  (list "history" $h.history "16MiB")
  (list "admin-details" $h.adminDetails "loopback")
  (list "log-level" $h.logLevel "info")
}}
{{- if ne (toString (index . 1)) (toString (index . 2)) }}
- {{ printf "--%s=%v" (index . 0) (index . 1) | toJson }}
{{- end }}
{{- end }}
{{- range list
  (list "endpoint-pod-names" $h.endpointPodNames)
  (list "zonal" $h.zonal)
  (list "ignore-empty-service" $h.ignoreEmptyService)
  (list "extended-errors" $h.extendedErrors)
}}
{{- if index . 1 }}
- --{{ index . 0 }}
{{- end }}
{{- end }}
{{- if $twin }}
- --seed=127.0.0.1:9354
{{- else if .Values.peers.enabled }}
- --peer-listen=0.0.0.0:9354
{{- else if $h.twin }}
- --peer-listen=127.0.0.1:9354
{{- end }}
{{- if .Values.peers.enabled }}
- --seed=$({{ include "headwater.peersName" . | upper | replace "-" "_" }}_SERVICE_HOST):9354
- --peer-cert=/etc/headwater/peers/tls.crt
- --peer-key=/etc/headwater/peers/tls.key
- --peer-ca=/etc/headwater/peers/ca.crt
{{- end }}
{{- end }}
{{- end -}}

{{/* Answer processes of each instance. */}}
{{- define "headwater.workersEach" -}}
{{- div (int64 .Values.headwater.workers) (ternary 2 1 .Values.headwater.twin) -}}
{{- end -}}

{{/*
What `--listen` says of an instance's socket: with several answer processes each has a number in its name.
Twins of one process each have the names that one instance's two would have. (context, whether it is the
twin)
*/}}
{{- define "headwater.socket" -}}
{{- $one := eq (include "headwater.workersEach" (index . 0)) "1" -}}
{{- if and $one (index . 0).Values.headwater.twin -}}
/run/headwater/dns-{{ ternary 1 0 (index . 1) }}.sock
{{- else -}}
/run/headwater/{{ ternary "twin" "dns" (index . 1) }}.sock
{{- end -}}
{{- end -}}

{{/*
Combinations that no schema can tell, as one line that names the value. Headwater itself would refuse
them too, but only in the pod's log.
*/}}
{{- define "headwater.validate" -}}
{{- $h := .Values.headwater -}}
{{- range concat $h.zones $h.multiclusterZones -}}
{{- if or (hasSuffix ".arpa" .) (eq . "arpa") -}}
{{- fail (printf "headwater.zones: %q is a reverse zone: that is what headwater.reverseZones is for" .) -}}
{{- end -}}
{{- end -}}
{{- range $h.multiclusterZones -}}
{{- if has . $h.zones -}}
{{- fail (printf "headwater.multiclusterZones: %q is in headwater.zones too: a zone is named twice" .) -}}
{{- end -}}
{{- end -}}
{{- if and $h.namespaces $h.namespaceLabels -}}
{{- fail "headwater.namespaceLabels: cannot be used together with headwater.namespaces" -}}
{{- end -}}
{{- if gt (add (len $h.zones) (len $h.multiclusterZones) (len (include "headwater.reverseZones" . | fromJsonArray))) 250 -}}
{{- fail "headwater.reverseZones: no more than 250 zones can be served; a CIDR that does not end at a full octet stands for several" -}}
{{- end -}}
{{- if and $h.twin (ne (mod (int64 $h.workers) 2) 0) -}}
{{- fail "headwater.workers: with headwater.twin each of the two has half of them: an even number is needed, or headwater.twin=false" -}}
{{- end -}}
{{- if not (or .Values.coredns.image.tag .Values.coredns.image.digest) -}}
{{- fail "coredns.image.tag: a tag or a digest is needed" -}}
{{- end -}}
{{- if eq .Values.mode "split" -}}
{{- if $h.ignoreEmptyService -}}
{{- fail "headwater.ignoreEmptyService: CoreDNS has no endpoints in mode split, so it cannot know which are empty: use mode standalone" -}}
{{- end -}}
{{- range $name := list "labels" "namespaceLabels" -}}
{{- $selector := get $h $name -}}
{{- if or (contains "<" $selector) (contains ">" $selector) (contains "!=" $selector) -}}
{{- fail (printf "headwater.%s: %q: CoreDNS's kubernetes plugin has neither != nor < nor >: write `notin`, or use mode standalone" $name $selector) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.monitoring.podMonitor.enabled .Values.monitoring.serviceMonitor.enabled -}}
{{- fail "monitoring.serviceMonitor.enabled: monitoring.podMonitor.enabled is true too, and everything would be scraped twice: choose one" -}}
{{- end -}}
{{- if and .Values.podDisruptionBudget.enabled (not (kindIs "invalid" .Values.podDisruptionBudget.minAvailable)) (not (kindIs "invalid" .Values.podDisruptionBudget.maxUnavailable)) -}}
{{- fail "podDisruptionBudget.minAvailable: maxUnavailable is there too: set it to null" -}}
{{- end -}}
{{- end -}}
