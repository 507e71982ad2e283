#!/bin/sh
# Heartbeats of a PAP agent in a POSIX shell, with curl. Whole seconds are enough here.
mode=${HEARTBEAT_MODE:-IDLE} name="an agent in a shell"
agent=$(printf %s "$PAP_AGENT_ID" | od -An -v -tx1 | tr -d '\n' | tr ' ' %)
uptime() { cut -d ' ' -f 1 /proc/uptime; } # since the machine's start: no step of the clock changes it
started=$(uptime)

call() { # method, URL, key, seconds
    body="{\"mode\":\"$mode\",\"uptime_seconds\":$(awk "BEGIN { print $(uptime) - $started }"),\"agent_name\":\"$name\"}"
    [ "$1" = POST ] || body=
    printf '%s' "${3:+header = \"Authorization: Bearer $3\"}" | # a key in an argument could be seen by others
        curl -sf -o /dev/null -K - -m "$4" -X "$1" -H 'Content-Type: application/json' ${body:+-d "$body"} "$2"
}
collector() { [ -n "$PAP_COLLECTOR_URL" ] && call "$1" "$PAP_COLLECTOR_URL/heartbeat/$agent" "$PAP_COLLECTOR_KEY" "$2"; }
station() { [ -n "$PAP_STATION_URL" ] && call POST "$PAP_STATION_URL/api/agents/$agent/heartbeat" "$PAP_AGENT_KEY" 2; }
beat() { collector POST 2 || collector POST 1 || station; } # together at most 5 s

# A number below the given one, another one for each process.
random() { awk "BEGIN { srand($$ + $(date +%s)); print int(rand() * $1) }"; }
now() { uptime | cut -d . -f 1; }
interval() { case $mode in EMERGENCY) echo 5 ;; SLEEP) echo 900 ;; *) echo 30 ;; esac; }

stopping='' changed=''
trap 'stopping=yes' TERM INT
trap 'mode=EMERGENCY changed=yes' USR1 # a change of the mode is told at once
# Many that start together do not beat together: the first two beats are at random moments.
most=$(($(interval) / 10))
due=$(($(now) + $(random "$((most > 3 ? 3 : most))"))) first=yes
while [ -z "$stopping" ]; do
    while [ -z "$stopping$changed" ] && [ "$(now)" -lt "$due" ]; do
        sleep 1 & wait $! # a signal ends this wait, but would not end the sleep
    done
    [ -z "$stopping" ] || break
    [ -z "$changed" ] || due=$(now)
    changed=''
    if beat; then step=$(interval); else step=$((($(interval) + 3) / 4)); fi
    [ -z "$first" ] || step=$(random "$(interval)")
    first='' due=$((due + step))
    [ "$due" -ge "$(now)" ] || due=$(now) # after a pause one beat, not all that were missed
done
collector DELETE 2 # a goodbye, so that a planned stop is no death
