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
        --collector-api-key-file | --station-alert-key-file | --station-ca-file | --alertmanager-user-file | --alertmanager-password-file | --alertmanager-key-file | --alertmanager-ca-file | --state-file) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$current"); return ;;
        --cluster-id | --cluster-name | --collector-port | --collector-bind | --collector-api-key | --station-alert-url | --station-alert-key | --alertmanager-url | --alertmanager-user | --alertmanager-password | --alertmanager-key | --alertmanager-repeat-ms | --collector-url | --zombie-check-interval-ms | --heartbeat-grace-ms | --alert-queue-max-size | --alert-queue-ttl-ms | --alert-senders | --agent-retention-ms | --collector-max-agents | --collector-max-observers | --collector-max-connections | --collector-http-workers | --shutdown-grace-ms | --state-interval-ms | --pap-collector-url | --pap-agent-id | --heartbeat-interval | --rust-log) COMPREPLY=(); return ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W '--cluster-id --cluster-name --collector-port --collector-bind --collector-api-key --collector-api-key-file --station-alert-url --station-alert-key --station-alert-key-file --station-ca-file --alertmanager-url --alertmanager-user --alertmanager-user-file --alertmanager-password --alertmanager-password-file --alertmanager-key --alertmanager-key-file --alertmanager-ca-file --alertmanager-repeat-ms --collector-url --zombie-check-interval-ms --heartbeat-grace-ms --alert-queue-max-size --alert-queue-ttl-ms --alert-recovery --alert-senders --agent-retention-ms --collector-max-agents --collector-max-observers --collector-max-connections --collector-http-workers --shutdown-grace-ms --state-file --state-interval-ms --pap-collector-url --pap-agent-id --heartbeat-mode --heartbeat-interval --rust-log --log-format --help --live --check-config --version check' -- "$current")
}
complete -F _pap_collector pap-collector
