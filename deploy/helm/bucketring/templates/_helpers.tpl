{{/* SPDX-License-Identifier: Apache-2.0 */}}

{{- define "bucketring.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- $name = .Values.fullnameOverride -}}
{{- else if not (contains $name .Release.Name) -}}
{{- $name = printf "%s-%s" .Release.Name $name -}}
{{- else -}}
{{- $name = .Release.Name -}}
{{- end -}}
{{- /* The name of a member is this and a number, and has at most 57 characters. */ -}}
{{- $name | trunc 45 | trimSuffix "-" -}}
{{- end -}}

{{- define "bucketring.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "bucketring.labels" -}}
{{ include "bucketring.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "bucketring.image" -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}

{{- define "bucketring.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ default (include "bucketring.fullname" .) .Values.serviceAccount.name }}
{{- else -}}
{{ default "default" .Values.serviceAccount.name }}
{{- end -}}
{{- end -}}

{{/* Nine tenths of a limit of memory in Mi or Gi; nothing without a limit. */}}
{{- define "bucketring.goMemLimit" -}}
{{- $memory := dig "limits" "memory" "" . | toString -}}
{{- if hasSuffix "Gi" $memory -}}
{{ div (mul (trimSuffix "Gi" $memory | int) 1024 9) 10 }}MiB
{{- else if hasSuffix "Mi" $memory -}}
{{ div (mul (trimSuffix "Mi" $memory | int) 9) 10 }}MiB
{{- end -}}
{{- end -}}

{{/* Whether pods wait until the cluster can lose one: nodes that have no third cannot. */}}
{{- define "bucketring.waits" -}}
{{- if and (ge (int .Values.replicas) 3) (gt (int .Values.shutdown.safeWaitSeconds) 0) }}yes{{ end -}}
{{- end -}}

{{/* What a shutdown takes at most, as docs/operating.md describes it: with 15 s for the
outbox, slices, the departure and the journal. */}}
{{- define "bucketring.grace" -}}
{{- $s := .Values.shutdown -}}
{{- $sum := add (int $s.handoverSeconds) (int $s.drainDelaySeconds) (int $s.timeoutSeconds) 15 -}}
{{- if include "bucketring.waits" . }}{{ $sum = add $sum (int $s.safeWaitSeconds) }}{{ end -}}
{{- if eq .Values.proxy.mode "node" }}{{ $sum = add $sum (int $s.timeoutSeconds) }}{{ end -}}
{{ $sum }}
{{- end -}}

{{- define "bucketring.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "bucketring.containerSecurity" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Whether there is a directory of policy files to mount. */}}
{{- define "bucketring.policyConfigMap" -}}
{{- $p := .Values.policy -}}
{{- if or $p.url $p.urlSecret.name }}
{{- else if $p.existingConfigMap }}{{ $p.existingConfigMap }}
{{- else }}{{ include "bucketring.fullname" . }}-policy
{{- end -}}
{{- end -}}

{{- define "bucketring.envoyConfigMap" -}}
{{- if .Values.envoy.existingConfigMap }}{{ .Values.envoy.existingConfigMap }}
{{- else if .Values.envoy.rules }}{{ include "bucketring.fullname" . }}-envoy
{{- end -}}
{{- end -}}

{{/* Settings that values of their own decide. */}}
{{- define "bucketring.managed" -}}
name: "the name of the pod"
http: "port 6470"
grpc: "port 6471"
gossip: "port 6472"
advertise: "the address of the pod"
join: "the headless service"
bootstrap_expect: "bootstrapExpect"
cluster_key_file: "clusterKey"
insecure: "insecure"
policy: "policy"
data: "persistence"
envoy_config: "envoy"
resp: "resp.enabled"
handover_timeout: "shutdown.handoverSeconds"
drain_delay: "shutdown.drainDelaySeconds"
shutdown_timeout: "shutdown.timeoutSeconds"
tls: "tls.mode"
tls_cert_file: "tls"
tls_key_file: "tls"
tls_ca_file: "tls"
tls_client_auth: "auth, which says who may call"
tls_peer_name: "tls.peerName"
auth: "auth"
proxy_listen: "proxy.mode"
proxy_upstream: "proxy.upstream"
proxy_identity: "proxy.identity"
{{- end -}}

{{/* The scheme of probes, metrics and links. */}}
{{- define "bucketring.scheme" -}}
{{ ternary "http" "https" (eq .Values.tls.mode "off") }}
{{- end -}}

{{/* Settings of the proxy without prefix: call with (list prefix root). */}}
{{- define "bucketring.proxySettings" -}}
{{- $prefix := index . 0 -}}
{{- $v := (index . 1).Values.proxy -}}
{{ $prefix }}upstream: {{ required "proxy.upstream: must be the URL of the model server, such as http://vllm:8000" $v.upstream | quote }}
{{- $root := (index . 1).Values }}
{{- if and (not $root.insecure) (or (ne $root.tls.mode "required") (hasPrefix "header:" $v.identity)) }}
{{- fail "proxy.mode: the proxy needs tls.mode required and an identity that is no header, which anybody can set, or else insecure must be true" }}
{{- end }}
{{ $prefix }}identity: {{ required "proxy.identity: must be bearer, header:NAME or jwt:CLAIM: nobody is trusted by default" $v.identity | quote }}
{{- if $v.upstreamKey.name }}
{{ $prefix }}upstream_key_file: /etc/bucketring/upstream/{{ $v.upstreamKey.key }}
{{- end }}
{{- if $v.jwtKeys.name }}
{{ $prefix }}jwt_keys: /etc/bucketring/jwt/{{ $v.jwtKeys.key }}
{{- end }}
{{- $settings := (index . 1).Files.Get "files/settings.yaml" | fromYaml }}
{{- range $key, $value := $v.config }}
{{- if has $key (list "upstream" "identity" "upstream_key_file" "jwt_keys") }}
{{- fail (printf "proxy.config.%s: is set by another value under proxy" $key) }}
{{- end }}
{{- if not (has $key $settings.proxy) }}
{{- fail (printf "proxy.config.%s: is no setting of the proxy that this chart passes on: docs/proxy.md lists them" $key) }}
{{- end }}
{{ $prefix }}{{ $key }}: {{ $value | toJson }}
{{- end }}
{{- end -}}

{{/* Volumes with the secrets of the proxy. */}}
{{- define "bucketring.proxyVolumes" -}}
{{- $v := .Values.proxy }}
{{- if and (eq $v.mode "deployment") (ne .Values.tls.mode "off") }}
- name: tls
  secret:
    secretName: {{ required "proxy.tlsSecret: must name a secret with tls.crt, tls.key and ca.crt: the proxy is no member, so it must not have the certificate of one" $v.tlsSecret }}
    defaultMode: 0440
{{- end }}
{{- if and (eq $v.mode "deployment") $v.nodeToken.name }}
- name: node-token
  secret:
    secretName: {{ $v.nodeToken.name }}
    defaultMode: 0440
{{- end }}
{{- if $v.upstreamKey.name }}
- name: upstream
  secret:
    secretName: {{ $v.upstreamKey.name }}
    defaultMode: 0440
{{- end }}
{{- if $v.jwtKeys.name }}
- name: jwt
  secret:
    secretName: {{ $v.jwtKeys.name }}
    defaultMode: 0440
{{- end }}
{{- end -}}

{{- define "bucketring.proxyMounts" -}}
{{- $v := .Values.proxy }}
{{- if and (eq $v.mode "deployment") $v.nodeToken.name }}
- name: node-token
  mountPath: /etc/bucketring/node-token
  readOnly: true
{{- end }}
{{- if $v.upstreamKey.name }}
- name: upstream
  mountPath: /etc/bucketring/upstream
  readOnly: true
{{- end }}
{{- if $v.jwtKeys.name }}
- name: jwt
  mountPath: /etc/bucketring/jwt
  readOnly: true
{{- end }}
{{- end -}}

{{- define "bucketring.policyVolume" -}}
{{- with include "bucketring.policyConfigMap" . }}
- name: policy
  configMap:
    name: {{ . }}
{{- end }}
{{- end -}}

{{- define "bucketring.tlsVolume" -}}
{{- if ne .Values.tls.mode "off" }}
- name: tls
  {{- if .Values.tls.volume }}
  {{- toYaml .Values.tls.volume | nindent 2 }}
  {{- else }}
  secret:
    secretName: {{ required "tls.existingSecret: must name a secret with tls.crt, tls.key and ca.crt, or set tls.volume" .Values.tls.existingSecret }}
    defaultMode: 0440
  {{- end }}
{{- end }}
{{- end -}}

{{/* The policy and the certificates: directories, because a mounted file is never updated. */}}
{{- define "bucketring.commonMounts" -}}
{{- if include "bucketring.policyConfigMap" . }}
- name: policy
  mountPath: /etc/bucketring/policy
  readOnly: true
{{- end }}
{{- if ne .Values.tls.mode "off" }}
- name: tls
  mountPath: /etc/bucketring/tls
  readOnly: true
{{- end }}
{{- end -}}

{{/* Environment of every container: call with (list resources root prefix). */}}
{{- define "bucketring.env" -}}
{{- $root := index . 1 -}}
{{- with include "bucketring.goMemLimit" (index . 0) }}
- name: GOMEMLIMIT
  value: {{ . }}
{{- end }}
{{- with $root.Values.policy.urlSecret }}
{{- if .name }}
- name: {{ index $ 2 }}POLICY
  valueFrom:
    secretKeyRef:
      name: {{ .name }}
      key: {{ .key }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "bucketring.placement" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $v := $root.Values -}}
{{- $spread := dict "kubernetes.io/hostname" $v.spread.host "topology.kubernetes.io/zone" $v.spread.zone -}}
{{- if or (ne $v.spread.host "none") (ne $v.spread.zone "none") }}
topologySpreadConstraints:
{{- range $key, $when := $spread }}
{{- if ne $when "none" }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: {{ $when }}
    labelSelector:
      matchLabels:
        {{- include "bucketring.selector" $root | nindent 8 }}
        app.kubernetes.io/component: {{ $component }}
{{- end }}
{{- end }}
{{- end }}
{{- with $v.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $v.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $v.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $v.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $v.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
