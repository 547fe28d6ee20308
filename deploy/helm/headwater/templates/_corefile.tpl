{{/* The Corefile, from the values that make Headwater's flags: the same block as `headwater corefile` prints. */}}

{{/* Reverse zones as they are given, as a JSON list. */}}
{{- define "headwater.reverseGiven" -}}
{{- if not (kindIs "invalid" .Values.headwater.reverseZones) -}}
{{- toJson .Values.headwater.reverseZones -}}
{{- else if eq .Values.mode "sidecar" -}}
[]
{{- else -}}
["in-addr.arpa","ip6.arpa"]
{{- end -}}
{{- end -}}

{{/* Reverse zones as a JSON list: CIDRs are divided as Headwater and CoreDNS divide them, at whole labels. */}}
{{- define "headwater.reverseZones" -}}
{{- $zones := list -}}
{{- range include "headwater.reverseGiven" . | fromJsonArray -}}
{{- $zones = concat $zones (include "headwater.reverse" . | fromJsonArray) -}}
{{- end -}}
{{- uniq $zones | toJson -}}
{{- end -}}

{{- define "headwater.reverse" -}}
{{- if not (contains "/" .) -}}
{{- list . | toJson -}}
{{- else -}}
{{- $address := index (splitList "/" .) 0 -}}
{{- $prefix := index (splitList "/" .) 1 | int -}}
{{- $labels := list -}}
{{- $bits := 8 -}}
{{- $root := "in-addr.arpa" -}}
{{- if contains ":" $address -}}
{{- $bits = 4 -}}
{{- $root = "ip6.arpa" -}}
{{- $labels = include "headwater.nibbles" $address | fromJsonArray -}}
{{- else -}}
{{- $labels = splitList "." $address -}}
{{- end -}}
{{- $count := div (add $prefix $bits -1) $bits | int -}}
{{- if eq $count 0 -}}
{{- list $root | toJson -}}
{{- else -}}
{{- $zones := 1 -}}
{{- range until (sub (mul $count $bits) $prefix | int) -}}
{{- $zones = mul $zones 2 -}}
{{- end -}}
{{- $parent := append (reverse (slice $labels 0 (sub $count 1 | int))) $root -}}
{{- $last := index $labels (sub $count 1 | int) -}}
{{- $digits := splitList "" "0123456789abcdef" -}}
{{- $number := 0 -}}
{{- if eq $bits 4 -}}
{{- range $value, $digit := $digits -}}{{- if eq $digit $last -}}{{- $number = $value -}}{{- end -}}{{- end -}}
{{- else -}}
{{- $number = atoi $last -}}
{{- end -}}
{{- $first := sub $number (mod $number $zones) -}}
{{- $found := list -}}
{{- range until (int $zones) -}}
{{- $label := add $first . | int -}}
{{- $text := eq $bits 4 | ternary (index $digits (min $label 15 | int)) (toString $label) -}}
{{- $found = append $found (join "." (prepend $parent $text)) -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The 32 hex digits of an IPv6 address. */}}
{{- define "headwater.nibbles" -}}
{{- $halves := splitList "::" (lower .) -}}
{{- $head := without (index $halves 0 | splitList ":") "" -}}
{{- $tail := list -}}
{{- if gt (len $halves) 1 -}}{{- $tail = without (index $halves 1 | splitList ":") "" -}}{{- end -}}
{{- $text := "" -}}
{{- range $head -}}{{- $text = printf "%s%s" $text (printf "0000%s" . | trunc -4) -}}{{- end -}}
{{- range until (sub 8 (add (len $head) (len $tail)) | int) -}}{{- $text = printf "%s0000" $text -}}{{- end -}}
{{- range $tail -}}{{- $text = printf "%s%s" $text (printf "0000%s" . | trunc -4) -}}{{- end -}}
{{- splitList "" $text | toJson -}}
{{- end -}}

{{/* A word of the Corefile, in quotes if it needs them. The schema leaves no character that quotes do not protect. */}}
{{- define "headwater.word" -}}
{{- if contains " " . }}"{{ . }}"{{ else }}{{ . }}{{ end -}}
{{- end -}}

{{/* A space and a socket for each answer process. */}}
{{- define "headwater.upstreams" -}}
{{- $workers := include "headwater.workersEach" . | int -}}
{{- range $twin := ternary (list false true) (list false) .Values.headwater.twin -}}
{{- $socket := include "headwater.socket" (list $ $twin) -}}
{{- if eq $workers 1 }} unix://{{ $socket }}{{ end -}}
{{- if gt $workers 1 -}}
{{- range until $workers }} unix://{{ trimSuffix ".sock" $socket }}-{{ . }}.sock{{ end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The one `grpc`, for blocks. */}}
{{- define "headwater.grpc" -}}
grpc .{{ include "headwater.upstreams" . }} {
    policy round_robin
}
{{- end -}}

{{/* Zones as a block names them: (zones as JSON, port). */}}
{{- define "headwater.keys" -}}
{{- $port := index . 1 -}}
{{- range index . 0 | fromJsonArray -}}{{ . }}:{{ $port }} {{ end -}}
{{- end -}}

{{/* The blocks of the cluster's zones, as `headwater corefile` prints them, with metrics. */}}
{{- define "headwater.blocks" -}}
{{- $h := .Values.headwater -}}
{{- $names := concat $h.zones $h.multiclusterZones -}}
{{- $reverse := include "headwater.reverseZones" . | fromJsonArray -}}
{{- $apart := and $reverse .Values.coredns.reverseForward -}}
{{- $zones := ternary $names (concat $names $reverse | uniq) (not (empty $apart)) -}}
{{ include "headwater.keys" (list (toJson $zones) 53) }}{
    errors
    {{- if and .Values.coredns.log (ne .Values.mode "sidecar") }}
    log
    {{- end }}
    # Once per block, as each block counts its own queries. The same address everywhere.
    prometheus :9153
    {{- if eq .Values.mode "split" }}
    # CoreDNS watches no EndpointSlices, so it has no answer for a headless Service and passes such names on.
    kubernetes
    {{- if $h.multiclusterZones -}}
    {{- range $zones }}{{ if not (has . $h.multiclusterZones) }} {{ . }}{{ end }}{{ end -}}
    {{- end }} {
        noendpoints
        fallthrough
        {{- with $h.labels }}
        labels {{ include "headwater.word" . }}
        {{- end }}
        {{- with $h.namespaceLabels }}
        namespace_labels {{ include "headwater.word" . }}
        {{- end }}
        {{- if $h.namespaces }}
        namespaces {{ join " " $h.namespaces }}
        {{- end }}
        {{- if ne (int64 $h.ttl) 5 }}
        ttl {{ min (int64 $h.ttl) 3600 }}
        {{- end }}
    }
    {{- end }}
    # One socket per answer process; when one fails another is asked within the same query.
    # No `cache`: a cached answer outlives its pod.
    {{- include "headwater.grpc" . | nindent 4 }}
}
{{- if $apart }}

# Reverse names. Headwater says NXDOMAIN for an address that is not the cluster's; then, and only
# then, the next `forward` is asked. Without a `cache` too: a replaced pod's name is right at once.
{{ include "headwater.keys" (list (toJson $reverse) 53) }}{
    errors
    {{- if and .Values.coredns.log (ne .Values.mode "sidecar") }}
    log
    {{- end }}
    prometheus :9153
    forward . 127.0.0.1:5399 {
        # It is in this process: it needs no health checks.
        max_fails 0
        next NXDOMAIN
    }
    forward . {{ join " " .Values.coredns.forward }}
}

# Headwater's part of the reverse names. In one block CoreDNS would run `forward` first, and
# `grpc` cannot fall through to it. It listens inside the pod only, and counts nothing twice.
{{ include "headwater.keys" (list (toJson $reverse) 5399) }}{
    bind 127.0.0.1
    errors
    {{- include "headwater.grpc" . | nindent 4 }}
}
{{- end }}
{{- end -}}

{{/* All of it, for a CoreDNS of our own. */}}
{{- define "headwater.corefile" -}}
{{ include "headwater.blocks" . }}

# Every other name. `health`, `ready`, `loop` and `reload` are for the whole
# process; CoreDNS is ready when its plugins are, the pod when Headwater is too.
.:53 {
    errors
    # No `lameduck`: CoreDNS 1.15 closes grpc's connections before it waits, and would answer SERVFAIL for
    # the whole of that time. The pod's preStop waits instead, while everything still answers.
    health
    ready
    prometheus :9153
    forward . {{ join " " .Values.coredns.forward }}
    {{- if .Values.coredns.cacheSeconds }}
    cache {{ int64 .Values.coredns.cacheSeconds }}
    {{- end }}
    loop
    reload
    {{- with .Values.coredns.extraConfig }}
    {{- trimSuffix "\n" . | nindent 4 }}
    {{- end }}
}
{{- with .Values.coredns.extraServers }}

{{ trimSuffix "\n" . }}
{{- end }}
{{ end -}}
