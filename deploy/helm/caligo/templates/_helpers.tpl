{{/* Names. */}}
{{- define "caligo.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name -}}
{{- end -}}
{{- end -}}

{{/* What follows takes a dict of root ($) and service, unless it says otherwise. */}}

{{/* Name of the service's objects; 40 characters leave room for what follows it, and for the hash of a pod. */}}
{{- define "caligo.name" -}}
{{- printf "%s-%s" (include "caligo.fullname" .root | trunc 40 | trimSuffix "-") .service -}}
{{- end -}}

{{- define "caligo.selectorLabels" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .service }}
{{- end -}}

{{/* With suffix, that is added to the name. */}}
{{- define "caligo.metadata" -}}
name: {{ include "caligo.name" . }}{{ .suffix }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "caligo.selectorLabels" . | nindent 2 }}
  app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
  app.kubernetes.io/managed-by: {{ .root.Release.Service }}
  helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* Port of a service, which is its name here. */}}
{{- define "caligo.port" -}}
{{- get (dict "orchestrator" "50050" "sampler" "50051" "simulator" "50052" "surrogate" "50053") . -}}
{{- end -}}

{{/* Secret with the certificate of a service. */}}
{{- define "caligo.tlsSecret" -}}
{{- if eq .root.Values.tls.source "secrets" -}}
{{- get .root.Values.tls.secrets .service | required (printf "tls.secrets.%s: must name a Secret where tls.source is secrets" .service) -}}
{{- else -}}
{{- include "caligo.name" . }}-tls
{{- end -}}
{{- end -}}

{{/* A number or a text as a setting reads it: YAML's numbers reach templates as floats, and 1e+06 is no integer. */}}
{{- define "caligo.scalar" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- end -}}

{{/* EPR workers of a simulator, from $: what resourceFieldRef makes of limits.cpu, with any beginning CPU a whole one. */}}
{{- define "caligo.workers" -}}
{{- $cpu := toString .Values.simulator.resources.limits.cpu -}}
{{- if hasSuffix "m" $cpu -}}
{{- divf (float64 (trimSuffix "m" $cpu)) 1000 | ceil | int64 -}}
{{- else -}}
{{- float64 $cpu | ceil | int64 -}}
{{- end -}}
{{- end -}}

{{/*
A pod of the service. Besides root and service: env, volumeMounts and volumes, lists of what only this service has;
resources, tag and runtimeClassName where they are not those of values.
*/}}
{{- define "caligo.pod" -}}
{{- $values := get .root.Values .service -}}
{{- $prefix := printf "CALIGO_%s" (upper .service) -}}
{{- $image := .root.Values.image -}}
metadata:
  labels:
    {{- include "caligo.selectorLabels" . | nindent 4 }}
    {{- with $values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  automountServiceAccountToken: false
  # Or Kubernetes adds variables for every Service, such as CALIGO_SAMPLER_PORT: they look like settings, and a service
  # does not start with settings that it does not know.
  enableServiceLinks: false
  # Beyond what the service gives to work under way, the time to end its workers and close its files.
  terminationGracePeriodSeconds: {{ add $values.graceSeconds 20 }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
  {{- with $image.pullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- with $values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- range . }}
    - labelSelector:
        matchLabels:
          {{- include "caligo.selectorLabels" $ | nindent 10 }}
      {{- toYaml . | nindent 6 }}
    {{- end }}
  {{- end }}
  containers:
    - name: {{ .service }}
      image: {{ with $image.registry }}{{ . }}/{{ end }}caligo/{{ .service }}:{{ default .root.Chart.AppVersion $image.tag }}{{ .tagSuffix }}
      imagePullPolicy: {{ $image.pullPolicy }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      ports:
        - {name: grpc, containerPort: {{ include "caligo.port" .service }}}
        - {name: metrics, containerPort: 9464}
      env:
        - {name: {{ $prefix }}_ADDRESS, value: "0.0.0.0:{{ include "caligo.port" .service }}"}
        - {name: {{ $prefix }}_METRICS_ADDRESS, value: "0.0.0.0:9464"}
        - {name: {{ $prefix }}_GRACE_SECONDS, value: {{ $values.graceSeconds | quote }}}
        - {name: {{ $prefix }}_TLS_CERTIFICATE, value: /tls/{{ .service }}.pem}
        - {name: {{ $prefix }}_TLS_KEY, value: /tls/{{ .service }}-key.pem}
        {{- with .env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
        {{- range $name, $value := $values.settings }}
        - {name: {{ $prefix }}_{{ upper $name }}, value: {{ include "caligo.scalar" $value | quote }}}
        {{- end }}
      # Kubernetes' own gRPC probes speak no TLS. A probe starts Python, which takes a while where all CPUs are at work.
      startupProbe:
        exec: {command: [python, -m, caligo.health, {{ .service }}]}
        periodSeconds: 5
        timeoutSeconds: 10
        failureThreshold: 60
      readinessProbe:
        exec: {command: [python, -m, caligo.health, {{ .service }}]}
        periodSeconds: 15
        timeoutSeconds: 10
        failureThreshold: 2
      livenessProbe:
        exec: {command: [python, -m, caligo.health, {{ .service }}]}
        periodSeconds: 60
        timeoutSeconds: 30
        failureThreshold: 5
      resources:
        {{- toYaml (default $values.resources .resources) | nindent 8 }}
      volumeMounts:
        - {name: tls, mountPath: /tls, readOnly: true}
        - {name: tmp, mountPath: /tmp}
        {{- with .volumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: tls
      secret:
        secretName: {{ include "caligo.tlsSecret" . }}
        defaultMode: 0440
        items:
          - {key: ca.crt, path: ca.pem}
          - {key: tls.crt, path: {{ .service }}.pem}
          - {key: tls.key, path: {{ .service }}-key.pem}
    - name: tmp
      emptyDir: {sizeLimit: 1Gi}
    {{- with .volumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/* Only who shows a certificate of the authority may call: of sampler, simulator and surrogate. */}}
{{- define "caligo.clientAuthority" -}}
- {name: CALIGO_{{ upper .service }}_TLS_CLIENT_CA, value: /tls/ca.pem}
{{- end -}}

{{- define "caligo.podDisruptionBudget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "caligo.metadata" . | nindent 2 }}
spec:
  maxUnavailable: {{ (get .root.Values .service).podDisruptionBudget.maxUnavailable }}
  selector:
    matchLabels:
      {{- include "caligo.selectorLabels" . | nindent 6 }}
{{- end -}}
