{{/*
The sidecars' names, as a JSON list.
*/}}
{{- define "headwater.instances" -}}
{{- ternary (list "headwater" "headwater-twin") (list "headwater") .Values.headwater.twin | toJson -}}
{{- end -}}

{{/*
A sidecar: a native one (Kubernetes 1.29 and later), up before CoreDNS starts, and there until
CoreDNS has ended. (context, whether the pod leaves the user to the container, its name)
*/}}
{{- define "headwater.container" -}}
{{- $ := index . 0 -}}
{{- $alone := index . 1 -}}
{{- $name := index . 2 -}}
{{- $twin := eq $name "headwater-twin" -}}
{{- $port := ternary "headwater-twin" "headwater-http" $twin -}}
name: {{ $name }}
restartPolicy: Always
image: {{ include "headwater.image" (list $.Values.headwater.image $.Chart.AppVersion) | toJson }}
imagePullPolicy: {{ $.Values.headwater.image.pullPolicy }}
args:
  {{- include "headwater.args" (list $ $twin) | nindent 2 }}
ports:
  - name: {{ $port }}
    containerPort: {{ ternary 9355 9353 $twin }}
  {{- if and $.Values.peers.enabled (not $twin) }}
  - name: headwater-peers
    containerPort: 9354
  {{- end }}
# The sockets are there: CoreDNS never meets a refused connection.
startupProbe:
  httpGet:
    path: /healthz
    port: {{ $port }}
  initialDelaySeconds: 2
  periodSeconds: 1
  failureThreshold: 60
# Every answer can be given: the first list is complete, or an earlier one is on disk.
readinessProbe:
  httpGet:
    path: /readyz
    port: {{ $port }}
  periodSeconds: 2
  timeoutSeconds: 2
# The supervisor restarts a dead process within a second. This probe is for when it cannot.
livenessProbe:
  httpGet:
    path: /healthz
    port: {{ $port }}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 4
  terminationGracePeriodSeconds: 5
{{- with $.Values.headwater.resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- if $alone }}
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
  {{- end }}
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
volumeMounts:
  - name: headwater-sockets
    mountPath: /run/headwater
  - name: {{ $name }}-state
    mountPath: /var/lib/headwater
  - name: {{ $name }}-tmp
    mountPath: /tmp
  {{- if not $alone }}
  {{- include "headwater.tokenMount" $ | nindent 2 }}
  {{- end }}
  {{- if $.Values.peers.enabled }}
  - name: headwater-peers
    mountPath: /etc/headwater/peers
    readOnly: true
  {{- end }}
{{- end -}}

{{- define "headwater.tokenMount" -}}
- name: headwater-token
  mountPath: /var/run/secrets/kubernetes.io/serviceaccount
  readOnly: true
{{- end -}}

{{- define "headwater.volumes" -}}
- name: headwater-sockets
  emptyDir:
    medium: Memory
    sizeLimit: 1Mi
# On the node's disk: it outlives the container, and its pages are not the container's memory.
{{- range include "headwater.instances" . | fromJsonArray }}
- name: {{ . }}-state
  emptyDir:
    sizeLimit: 1Gi
- name: {{ . }}-tmp
  emptyDir:
    sizeLimit: 16Mi
{{- end }}
{{- if .Values.peers.enabled }}
- name: headwater-peers
  secret:
    secretName: {{ include "headwater.peersSecret" . | toJson }}
    # In mode sidecar the pod may have no fsGroup. Only Headwater's container mounts it.
    defaultMode: {{ eq .Values.mode "sidecar" | ternary "0444" "0440" }}
{{- end }}
{{- end -}}

{{/* CoreDNS answers on while Services stop sending queries. */}}
{{- define "headwater.lifecycle" -}}
lifecycle:
  preStop:
    sleep:
      seconds: {{ int64 .Values.coredns.preStopSeconds }}
{{- end -}}

{{/* (context, constraint): a topology spread constraint; without a labelSelector it gets the pods' own. */}}
{{- define "headwater.spread" -}}
{{- $own := dict "labelSelector" (dict "matchLabels" (include "headwater.selectorLabels" (index . 0) | fromYaml)) -}}
{{- toYaml (hasKey (index . 1) "labelSelector" | ternary (index . 1) (merge (dict) (index . 1) $own)) -}}
{{- end -}}

{{/* The garbage collector of CoreDNS, and the limit that it keeps to: (context, the container's name). */}}
{{- define "headwater.corednsEnv" -}}
{{- $ := index . 0 -}}
{{- if $.Values.coredns.gogc }}
# With its default, 100, the collector of garbage is a fifth of CoreDNS's cost: behind `grpc` its heap is
# small, so it collects all the time.
- name: GOGC
  value: {{ int64 $.Values.coredns.gogc | toString | toJson }}
# The memory at which it collects more often whatever GOGC says: 95 % of the limit, or of the node's memory
# where there is none. GOMEMLIMIT is in bytes; the limit's mebibytes are counted as millions of them.
- name: COREDNS_MEMORY_LIMIT_MIB
  valueFrom:
    resourceFieldRef:
      containerName: {{ index . 1 | toJson }}
      resource: limits.memory
      divisor: 1Mi
- name: GOMEMLIMIT
  value: $(COREDNS_MEMORY_LIMIT_MIB)000000
{{- end }}
{{- end -}}
