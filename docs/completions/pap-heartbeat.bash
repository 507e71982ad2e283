# Made from the tables of settings: PAP_WRITE_DOCS=1 cargo test -p pap-collector --test settings
_pap_heartbeat() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
    local at
    for ((at = 1; at < COMP_CWORD; at++)); do
        [[ ${COMP_WORDS[at]} == -- ]] || continue
        if ((at + 1 == COMP_CWORD)); then
            mapfile -t COMPREPLY < <(compgen -c -- "$current")
        else
            compopt -o filenames
            mapfile -t COMPREPLY < <(compgen -f -- "$current")
        fi
        return
    done
    # To bash, --flag=value is three words.
    if [[ $current == = ]]; then
        current=
    elif [[ $previous == = ]]; then
        previous=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    case $previous in
        --heartbeat-mode) mapfile -t COMPREPLY < <(compgen -W 'IDLE EMERGENCY SLEEP' -- "$current"); return ;;
        --log-format) mapfile -t COMPREPLY < <(compgen -W 'text json' -- "$current"); return ;;
        --pap-agent-key-file | --pap-collector-key-file | --pap-ca-file | --pid-file | --mode-file | --status-file | --pap-machine-key-file | --station-alert-key-file) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$current"); return ;;
        --pap-agent-id | --pap-agent-name | --pap-agent-key | --pap-collector-url | --pap-collector-key | --pap-station-url | --heartbeat-interval | --probe | --probe-timeout-ms | --emergency-after | --station-url | --pap-machine-id | --pap-machine-key | --cluster-id | --cluster-name | --cluster-region | --cluster-metadata | --station-alert-key | --station-timeout-ms | --rust-log) COMPREPLY=(); return ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W '--pap-agent-id --pap-agent-name --pap-agent-key --pap-agent-key-file --pap-collector-url --pap-collector-key --pap-collector-key-file --pap-station-url --pap-ca-file --heartbeat-mode --heartbeat-interval --probe --probe-timeout-ms --pid-file --emergency-after --mode-file --status-file --station-url --pap-machine-id --pap-machine-key --pap-machine-key-file --cluster-id --cluster-name --cluster-region --cluster-metadata --station-alert-key --station-alert-key-file --station-timeout-ms --rust-log --log-format --help --check --status --machine --register --deregister --check-config --version --' -- "$current")
}
complete -F _pap_heartbeat pap-heartbeat
