#!/bin/sh
# Beats with curl, which gets several posts on one connection, until standard input ends.
url=$1 posts=0 failed=0
exec 3<&0 # what runs in the background has no standard input of its own
(cat <&3 >/dev/null; kill $$ 2>/dev/null) &
trap 'echo "$posts $failed"; exit 0' TERM
while :; do
    posts=$((posts + 2))
    body="{\"mode\":\"IDLE\",\"uptime_seconds\":$posts}"
    curl -fsS -m 5 -o /dev/null -d "$body" "$url/heartbeat/curl-1" --next -fsS -m 5 -o /dev/null -d "$body" "$url/heartbeat/curl-2" ||
        { failed=$((failed + 1)); echo "failed: $?" >&2; }
    sleep 0.05
done
