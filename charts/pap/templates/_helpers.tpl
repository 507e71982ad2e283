{{/*
The names are fixed, as in k8s/: agents, docs, rules and selectors know them. So a namespace has one release.
*/}}

{{/* What every object of the chart is labelled with. No selector looks at these. */}}
{{- define "pap.labels" -}}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* The image in the list [values of the image, root]. */}}
{{- define "pap.image" -}}
{{- $image := index . 0 -}}
{{- printf "%s:%s" $image.repository ($image.tag | default (index . 1).Chart.AppVersion) -}}
{{- end }}

{{- define "pap.collector.secret" -}}
{{- .Values.collector.existingSecret | default "pap-collector-secrets" -}}
{{- end }}

{{- define "pap.station.secret" -}}
{{- .Values.station.existingSecret | default "pap-station-secrets" -}}
{{- end }}

{{/* The pap-station that the collector registers at; empty for none. */}}
{{- define "pap.station.url" -}}
{{- if .Values.station.url -}}
{{- .Values.station.url -}}
{{- else if .Values.station.enabled -}}
{{- printf "http://pap-station.%s.svc:8090" .Release.Namespace -}}
{{- end -}}
{{- end }}

{{/* The port of a URL. */}}
{{- define "pap.port" -}}
{{- $url := urlParse . -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" -}}
{{- $port | default (ternary "80" "443" (eq $url.scheme "http")) -}}
{{- end }}

{{/* Whether there are hooks: "true" or nothing. */}}
{{- define "pap.hooks" -}}
{{- if and .Values.station.register .Values.station.url -}}
{{- if eq .Values.cluster.id "my-cluster" -}}
{{- fail "set cluster.id: the station is to register this cluster under an id of its own (or set station.register=false)" -}}
{{- end -}}
true
{{- end -}}
{{- end }}

{{/* What a registration says besides. */}}
{{- define "pap.metadata" -}}
{{- $all := merge (dict "namespace" .Release.Namespace "release" .Release.Name) .Values.cluster.metadata -}}
{{- $pairs := list -}}
{{- range $name, $value := $all -}}
{{- $pairs = append $pairs (printf "%s=%s" $name $value) -}}
{{- end -}}
{{- join "," $pairs -}}
{{- end }}

{{/* The security of every pod and of every container: the restricted level, and a read-only root. */}}
{{- define "pap.podSecurity" -}}
automountServiceAccountToken: false
# A service named "collector" would set COLLECTOR_PORT to a URL.
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{- define "pap.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop:
      - ALL
{{- end }}

{{/* Where a pod runs: the list [values, root]. */}}
{{- define "pap.placing" -}}
{{- $values := index . 0 }}
{{- with (index . 1).Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- end }}

{{/* More variables, from a map. */}}
{{- define "pap.env" -}}
{{- range $name, $value := . }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{/* A variable from a secret: the list [variable, secret, key, whether it may be missing]. */}}
{{- define "pap.fromSecret" -}}
- name: {{ index . 0 }}
  valueFrom:
    secretKeyRef:
      name: {{ index . 1 }}
      key: {{ index . 2 }}
      {{- if index . 3 }}
      optional: true
      {{- end }}
{{- end }}

{{- define "pap.fromConfig" -}}
- name: {{ index . 0 }}
  valueFrom:
    configMapKeyRef:
      name: pap-collector-config
      key: {{ index . 1 }}
{{- end }}

{{/* The pod of a collector, in a Deployment or a DaemonSet. */}}
{{- define "pap.collector.pod" -}}
metadata:
  labels:
    app: pap-heartbeat-collector
  annotations:
    # Another configuration is another pod.
    checksum/config: {{ include (print $.Template.BasePath "/config.yaml") . | sha256sum }}
    {{- with .Values.collector.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ .Values.serviceAccount.name }}
  {{- include "pap.podSecurity" . | nindent 2 }}
  # After SIGTERM owed alerts get 5 s, heartbeats are served on for at most
  # SHUTDOWN_GRACE_MS (10 s), and threads get 3 s to end. A preStop is not
  # needed: /ready says 503 at once, and late heartbeats are still answered.
  terminationGracePeriodSeconds: 30
  {{- with include "pap.placing" (list .Values.collector .) | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  containers:
    - name: collector
      image: {{ include "pap.image" (list .Values.collector.image .) | quote }}
      imagePullPolicy: {{ .Values.collector.image.pullPolicy }}
      ports:
        - name: http
          containerPort: 8080
          protocol: TCP
      env:
        {{- include "pap.fromConfig" (list "CLUSTER_ID" "cluster-id") | nindent 8 }}
        {{- if eq .Values.collector.kind "DaemonSet" }}
        - name: CLUSTER_NAME
          valueFrom:
            # All nodes use the id of the cluster, because the station knows
            # no other. The name tells the nodes apart.
            fieldRef:
              fieldPath: spec.nodeName
        {{- else }}
        {{- include "pap.fromConfig" (list "CLUSTER_NAME" "cluster-name") | nindent 8 }}
        {{- end }}
        {{- if include "pap.station.url" . }}
        {{- include "pap.fromConfig" (list "STATION_URL" "station-url") | nindent 8 }}
        {{- else }}
        {{- include "pap.fromConfig" (list "STATION_ALERT_URL" "station-alert-url") | nindent 8 }}
        {{- end }}
        {{- if .Values.collector.url }}
        {{- include "pap.fromConfig" (list "COLLECTOR_URL" "collector-url") | nindent 8 }}
        {{- end }}
        {{- $secret := include "pap.collector.secret" . }}
        {{- include "pap.fromSecret" (list "STATION_ALERT_KEY" $secret "station-alert-key" false) | nindent 8 }}
        {{- include "pap.fromSecret" (list "COLLECTOR_API_KEY" $secret "collector-api-key" true) | nindent 8 }}
        # With a key, heartbeats need it too. Several keys, separated by commas, are
        # all taken.
        {{- include "pap.fromSecret" (list "HEARTBEAT_API_KEY" .Values.collector.heartbeatKeySecret "accepted" true) | nindent 8 }}
        # Agents, verdicts and owed alerts survive a restart of the
        # container. They do not survive the end of the pod.
        - name: STATE_FILE
          value: /var/lib/pap-collector/state
        {{- if .Values.station.caConfigMap }}
        - name: STATION_CA_FILE
          value: /etc/pap-station-ca/ca.crt
        {{- end }}
        {{- include "pap.env" .Values.collector.env | trim | nindent 8 }}
      livenessProbe:
        httpGet:
          path: /health
          port: http
        periodSeconds: 10
        timeoutSeconds: 3
        failureThreshold: 3
      readinessProbe:
        httpGet:
          path: /ready
          port: http
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: 2
      resources:
        {{- toYaml .Values.collector.resources | nindent 8 }}
      {{- include "pap.containerSecurity" . | nindent 6 }}
      volumeMounts:
        - name: state
          mountPath: /var/lib/pap-collector
        {{- with include "pap.ca.mount" . | trim }}
        {{- . | nindent 8 }}
        {{- end }}
  volumes:
    - name: state
      emptyDir:
        sizeLimit: 32Mi
    {{- with include "pap.ca.volume" . | trim }}
    {{- . | nindent 4 }}
    {{- end }}
{{- end }}

{{- define "pap.ca.mount" -}}
{{- if .Values.station.caConfigMap }}
- name: station-ca
  mountPath: /etc/pap-station-ca
  readOnly: true
{{- end }}
{{- end }}

{{- define "pap.ca.volume" -}}
{{- with .Values.station.caConfigMap }}
- name: station-ca
  configMap:
    name: {{ . }}
{{- end }}
{{- end }}

{{/* A job that tells the station of this cluster: the list [name, hooks, argument, root]. */}}
{{- define "pap.hook" -}}
{{- $root := index . 3 -}}
{{- if include "pap.hooks" $root }}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ index . 0 }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    app: pap-hook
    {{- include "pap.labels" $root | nindent 4 }}
  annotations:
    helm.sh/hook: {{ index . 1 }}
    # A job that failed stays, so that its log can be read.
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
spec:
  # The program tries again by itself.
  backoffLimit: 0
  # With the time to pull the image.
  activeDeadlineSeconds: {{ add 240 $root.Values.hooks.timeoutSeconds }}
  template:
    metadata:
      labels:
        app: pap-hook
    spec:
      restartPolicy: Never
      {{- include "pap.podSecurity" $root | nindent 6 }}
      terminationGracePeriodSeconds: 5
      {{- with include "pap.placing" (list $root.Values.hooks $root) | trim }}
      {{- . | nindent 6 }}
      {{- end }}
      containers:
        - name: heartbeat
          image: {{ include "pap.image" (list $root.Values.hooks.image $root) | quote }}
          imagePullPolicy: {{ $root.Values.hooks.image.pullPolicy }}
          args:
            - {{ index . 2 }}
          env:
            - name: STATION_URL
              value: {{ $root.Values.station.url | quote }}
            - name: CLUSTER_ID
              value: {{ $root.Values.cluster.id | quote }}
            - name: CLUSTER_NAME
              value: {{ $root.Values.cluster.name | quote }}
            {{- with $root.Values.cluster.region }}
            - name: CLUSTER_REGION
              value: {{ . | quote }}
            {{- end }}
            - name: CLUSTER_METADATA
              value: {{ include "pap.metadata" $root | quote }}
            # Where the key is missing, the program says so; without "optional" the job would
            # wait for the secret until its deadline.
            {{- include "pap.fromSecret" (list "STATION_ALERT_KEY" (include "pap.collector.secret" $root) "station-alert-key" true) | nindent 12 }}
            - name: STATION_TIMEOUT_MS
              value: {{ mul 1000 $root.Values.hooks.timeoutSeconds | quote }}
            {{- if $root.Values.station.caConfigMap }}
            - name: PAP_CA_FILE
              value: /etc/pap-station-ca/ca.crt
            {{- end }}
          resources:
            {{- toYaml $root.Values.hooks.resources | nindent 12 }}
          {{- include "pap.containerSecurity" $root | nindent 10 }}
          {{- if $root.Values.station.caConfigMap }}
          volumeMounts:
            {{- include "pap.ca.mount" $root | trim | nindent 12 }}
          {{- end }}
      {{- if $root.Values.station.caConfigMap }}
      volumes:
        {{- include "pap.ca.volume" $root | trim | nindent 8 }}
      {{- end }}
{{- end }}
{{- end }}

{{/* To whom collectors and hooks talk: names, and the station on this port. */}}
{{- define "pap.egress" -}}
# Names.
- to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: kube-system
  ports:
    - port: 53
      protocol: UDP
    - port: 53
      protocol: TCP
# The station. A policy knows no host names. If the station's address is fixed,
# allow only that address.
- to:
    - ipBlock:
        cidr: 0.0.0.0/0
    - ipBlock:
        cidr: ::/0
  ports:
    - port: {{ . }}
      protocol: TCP
{{- end }}
