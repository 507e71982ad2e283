# Made from the tables of settings: PAP_WRITE_DOCS=1 cargo test -p pap-station --test settings
_pap_station() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
    # To bash, --flag=value is three words.
    if [[ $current == = ]]; then
        current=
    elif [[ $previous == = ]]; then
        previous=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    case $previous in
        --auto-register) mapfile -t COMPREPLY < <(compgen -W 'false true' -- "$current"); return ;;
        --adopt-unlabelled) mapfile -t COMPREPLY < <(compgen -W 'false true' -- "$current"); return ;;
        --trust-proxy) mapfile -t COMPREPLY < <(compgen -W 'false true' -- "$current"); return ;;
        --kafka-tls) mapfile -t COMPREPLY < <(compgen -W 'false true' -- "$current"); return ;;
        --kafka-sasl-mechanism) mapfile -t COMPREPLY < <(compgen -W 'PLAIN SCRAM-SHA-256 SCRAM-SHA-512' -- "$current"); return ;;
        --log-format) mapfile -t COMPREPLY < <(compgen -W 'text json' -- "$current"); return ;;
        --station-db | --pap-collector-api-key-file | --agent-api-key-file | --station-admin-key-file | --station-viewer-key-file | --workers-file | --telegram-bot-token-file | --station-ca-file | --metrics-key-file | --alertmanager-user-file | --alertmanager-password-file | --alertmanager-key-file | --alertmanager-ca-file | --kafka-ca-file | --kafka-cert-file | --kafka-key-file | --kafka-sasl-user-file | --kafka-sasl-password-file | backup | import) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$current"); return ;;
        --station-port | --station-bind | --pap-collector-api-key | --agent-api-key | --station-admin-key | --station-viewer-key | --max-clusters | --max-agents | --station-max-connections | --alert-retention | --heartbeat-timeout | --cleanup-timeout | --docker-host | --docker-cert-path | --reconcile-interval | --max-containers | --machine-offline-threshold | --machine-heartbeat-check-interval | --telegram-bot-token | --telegram-api-url | --allow-private-targets | --metrics-key | --station-external-url | --alertmanager-url | --alertmanager-user | --alertmanager-password | --alertmanager-key | --alertmanager-repeat-ms | --kafka-brokers | --kafka-registry-topic | --kafka-heartbeat-topic | --kafka-audit-topic | --kafka-sasl-user | --kafka-sasl-password | --rust-log) COMPREPLY=(); return ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W '--station-port --station-bind --station-db --pap-collector-api-key --pap-collector-api-key-file --agent-api-key --agent-api-key-file --station-admin-key --station-admin-key-file --station-viewer-key --station-viewer-key-file --auto-register --max-clusters --max-agents --station-max-connections --alert-retention --heartbeat-timeout --cleanup-timeout --workers-file --docker-host --docker-cert-path --reconcile-interval --max-containers --adopt-unlabelled --machine-offline-threshold --machine-heartbeat-check-interval --telegram-bot-token --telegram-bot-token-file --telegram-api-url --allow-private-targets --station-ca-file --metrics-key --metrics-key-file --trust-proxy --station-external-url --alertmanager-url --alertmanager-user --alertmanager-user-file --alertmanager-password --alertmanager-password-file --alertmanager-key --alertmanager-key-file --alertmanager-ca-file --alertmanager-repeat-ms --kafka-brokers --kafka-registry-topic --kafka-heartbeat-topic --kafka-audit-topic --kafka-tls --kafka-ca-file --kafka-cert-file --kafka-key-file --kafka-sasl-mechanism --kafka-sasl-user --kafka-sasl-user-file --kafka-sasl-password --kafka-sasl-password-file --rust-log --log-format --help --live --json --prune --check-config --version check backup import' -- "$current")
}
complete -F _pap_station pap-station
