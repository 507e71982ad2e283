# Made from the tables of settings: PAP_WRITE_DOCS=1 cargo test -p pap-collector --test settings
_pap_collector() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
    # To bash, --flag=value is three words.
    if [[ $current == = ]]; then
        current=
    elif [[ $previous == = ]]; then
        previous=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    case $previous in
        --goodbye) mapfile -t COMPREPLY < <(compgen -W 'open key off' -- "$current"); return ;;
        --alert-recovery) mapfile -t COMPREPLY < <(compgen -W 'false true' -- "$current"); return ;;
        --heartbeat-mode) mapfile -t COMPREPLY < <(compgen -W 'IDLE EMERGENCY SLEEP' -- "$current"); return ;;
        --log-format) mapfile -t COMPREPLY < <(compgen -W 'text json' -- "$current"); return ;;
        --status) mapfile -t COMPREPLY < <(compgen -W 'healthy suspect dead' -- "$current"); return ;;
        --collector-api-key-file | --heartbeat-api-key-file | --station-alert-key-file | --station-ca-file | --admin-socket | --state-file | --heartbeat-trace | --pap-collector-key-file | --alertmanager-user-file | --alertmanager-password-file | --alertmanager-key-file | --alertmanager-ca-file | replay) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$current"); return ;;
        --cluster-id | --cluster-name | --collector-port | --collector-bind | --collector-api-key | --heartbeat-api-key | --station-url | --station-alert-url | --station-alert-key | --collector-url | --zombie-check-interval-ms | --heartbeat-grace-ms | --mass-silence-hold-ms | --alert-queue-max-size | --alert-queue-ttl-ms | --alert-senders | --agent-retention-ms | --collector-max-agents | --collector-max-observers | --collector-max-connections | --collector-http-workers | --shutdown-grace-ms | --state-interval-ms | --heartbeat-trace-max-mb | --pap-collector-url | --pap-collector-key | --pap-agent-id | --heartbeat-interval | --alertmanager-url | --alertmanager-user | --alertmanager-password | --alertmanager-key | --alertmanager-repeat-ms | --rust-log | --url) COMPREPLY=(); return ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W '--cluster-id --cluster-name --collector-port --collector-bind --collector-api-key --collector-api-key-file --heartbeat-api-key --heartbeat-api-key-file --goodbye --station-url --station-alert-url --station-alert-key --station-alert-key-file --station-ca-file --collector-url --zombie-check-interval-ms --heartbeat-grace-ms --mass-silence-hold-ms --alert-queue-max-size --alert-queue-ttl-ms --alert-recovery --alert-senders --agent-retention-ms --collector-max-agents --collector-max-observers --collector-max-connections --collector-http-workers --shutdown-grace-ms --admin-socket --state-file --state-interval-ms --heartbeat-trace --heartbeat-trace-max-mb --pap-collector-url --pap-collector-key --pap-collector-key-file --pap-agent-id --heartbeat-mode --heartbeat-interval --alertmanager-url --alertmanager-user --alertmanager-user-file --alertmanager-password --alertmanager-password-file --alertmanager-key --alertmanager-key-file --alertmanager-ca-file --alertmanager-repeat-ms --rust-log --log-format --status --url --help --live --json --check-config --version check agents top replay' -- "$current")
}
complete -F _pap_collector pap-collector
