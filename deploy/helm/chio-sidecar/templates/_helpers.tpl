{{- define "chio.name" -}}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{- end }}

{{- define "chio.selector" -}}
app.kubernetes.io/name: chio-sidecar
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "chio.labels" -}}
{{ include "chio.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "chio.image" -}}
{{ .Values.image.repository }}
{{- if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "chio.securityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/*
Secrets are mounted as links that the group may read. Keys and password files must be files of their owner alone, so
they are copied into memory first.
*/}}
{{- define "chio.copySecrets" -}}
- name: copy-secrets
  image: {{ include "chio.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [sh, -c, "mkdir -p -m 0700 /run/chio/private && for file in /secrets/*/*; do install -m 0600 \"$file\" /run/chio/private/; done"]
  securityContext: {{- include "chio.securityContext" . | nindent 4 }}
  volumeMounts:
    - {name: secrets, mountPath: /secrets, readOnly: true}
    - {name: run, mountPath: /run/chio}
{{- end }}

{{/*
The container of a sidecar. Another chart includes it into its own pods, with `listen` of 127.0.0.1:9090:
{{ include "chio.container" (dict "root" . "listen" "127.0.0.1:9090") }}
*/}}
{{- define "chio.container" -}}
{{- $root := .root -}}
{{- $store := $root.Values.store -}}
- name: chio-sidecar
  image: {{ include "chio.image" $root }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  args:
    - api
    - protect
    - --listen={{ .listen }}
    {{- if eq $store.kind "postgresql" }}
    - --receipt-store={{ $store.postgresql.url }}?key=/run/chio/private/signing.key
    {{- else }}
    - --receipt-store=/var/lib/chio/receipts.sqlite3
    - --authority-seed-file=/run/chio/private/signing.key
    {{- end }}
    - --spec=/etc/chio/spec
    - --strict-spec
    {{- range $root.Values.extraArgs }}
    - {{ . | quote }}
    {{- end }}
  env:
    - name: CHIO_SIDECAR_CONTROL_TOKEN
      valueFrom:
        secretKeyRef: {name: {{ $root.Values.controlTokenSecret.name }}, key: {{ $root.Values.controlTokenSecret.key }}}
    {{- with $root.Values.evaluateTokenSecret }}
    - name: CHIO_SIDECAR_EVALUATE_TOKEN
      valueFrom:
        secretKeyRef: {name: {{ .name }}, key: {{ .key }}}
    {{- end }}
    {{- if eq $store.kind "postgresql" }}
    - {name: PGPASSFILE, value: /run/chio/private/pgpass}
    {{- end }}
    {{- range $name, $value := $root.Values.env }}
    - {name: {{ $name }}, value: {{ $value | quote }}}
    {{- end }}
  ports:
    - {name: chio, containerPort: 9090}
  # Inside the container: with a `listen` of 127.0.0.1 no other way reaches it.
  startupProbe: {{- include "chio.probe" "/chio/live" | nindent 4 }}
    periodSeconds: 1
    failureThreshold: 60
  livenessProbe: {{- include "chio.probe" "/chio/live" | nindent 4 }}
    periodSeconds: 20
  # A sidecar that cannot commit gets no more requests, and is not restarted: that would not help.
  readinessProbe: {{- include "chio.probe" "/chio/health" | nindent 4 }}
    periodSeconds: 10
  lifecycle:
    preStop:
      exec: {command: [sleep, "5"]}  # until it is out of every list of endpoints
  resources: {{- toYaml $root.Values.resources | nindent 4 }}
  securityContext: {{- include "chio.securityContext" $root | nindent 4 }}
  volumeMounts:
    - {name: run, mountPath: /run/chio}
    - {name: tmp, mountPath: /tmp}
    {{- if eq $store.kind "sqlite" }}
    - {name: store, mountPath: /var/lib/chio}
    {{- end }}
    - {name: spec, mountPath: /etc/chio, readOnly: true}
{{- end }}

{{- define "chio.probe" -}}
exec:
  command: [python, -c, "import urllib.request as r; r.urlopen('http://127.0.0.1:9090{{ . }}', timeout=4)"]
timeoutSeconds: 5
{{- end }}

{{- define "chio.secretVolumes" -}}
- name: run
  emptyDir: {medium: Memory, sizeLimit: 1Mi}
- name: tmp
  emptyDir: {sizeLimit: 1Gi}
- name: secrets
  projected:
    sources:
      - secret:
          name: {{ .Values.signingKeySecret.name }}
          items: [{key: {{ .Values.signingKeySecret.key }}, path: key/signing.key}]
      {{- if eq .Values.store.kind "postgresql" }}
      - secret:
          name: {{ .Values.store.postgresql.passwordSecret.name }}
          items: [{key: {{ .Values.store.postgresql.passwordSecret.key }}, path: database/pgpass}]
      {{- end }}
{{- end }}

{{- define "chio.volumes" -}}
{{ include "chio.secretVolumes" . }}
{{- if eq .Values.store.kind "sqlite" }}
- name: store
  persistentVolumeClaim: {claimName: {{ include "chio.name" . }}}
{{- end }}
- name: spec
  configMap: {name: {{ include "chio.name" . }}}
{{- end }}
