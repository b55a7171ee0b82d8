#!/bin/sh
# NOT a trainer: plays exit codes where a test of the executor needs one. `$0 STAGE --run FILE` ends its n-th attempt
# as the n-th word of PLAY_<STAGE> says, and with 0 when there are no more words:
#   a number   ends with that exit code; 0 publishes an artifact of one file first
#   wait       works until SIGTERM, then ends with 75
#   slow       the same, but takes a second to end
#   killed     ends by SIGKILL
# `$0 serve ...` writes a port file and waits for SIGTERM; PLAY_SERVE=fail ends it with 3 instead.
# Each start and end is a line in $PLAY_LOG.
set -eu
stage=$1
log() { printf '%s\n' "$*" >>"$PLAY_LOG"; }

if [ "$stage" = serve ]; then
    trap 'log "serve stopped"; exit 0' TERM
    if [ "${PLAY_SERVE:-}" = fail ]; then
        echo "no such model" >&2
        exit 3
    fi
    for argument; do
        if [ "${previous:-}" = --port-file ]; then port_file=$argument; fi
        previous=$argument
    done
    log "serve $$"
    echo 4242 >"$port_file"
    while :; do sleep 0.05; done
fi

run=$3
work=$(dirname "$run")
kind=$(sed -n 's/^  kind: //p' "$run" | head -n 1)
name=$(sed -n 's/^    name: //p' "$run" | head -n 1)
output=$(sed -n 's/^output: //p' "$run")

attempts="$work/attempts"
n=$(($(cat "$attempts" 2>/dev/null || echo 0) + 1))
echo "$n" >"$attempts"
log "$stage $n"
echo "attempt $n of $stage, api_key=sk-abcdefgh12345678" >&2
eval "script=\${PLAY_$(echo "$stage" | tr a-z A-Z):-}"
word=$(echo "$script" | cut -d ' ' -f "$n")

printf '{"progress":{"stage":"Playing","completed":%s,"total":9,"percent":11}}' "$n" >"$work/progress.new"
mv "$work/progress.new" "$work/progress.json"

case "${word:-0}" in
wait | slow)
    trap 'if [ "$word" = slow ]; then sleep 1; fi; log "$stage stopped"; exit 75' TERM
    log "$stage waiting"
    while :; do sleep 0.05; done
    ;;
killed) kill -KILL $$ ;;
0)
    rm -rf "$output"
    mkdir -p "$output"
    echo "$kind $name $n" >"$output/model.txt"
    echo report >"$output/report.html"
    sum=$(sha256sum <"$output/model.txt" | cut -c 1-64)
    size=$(wc -c <"$output/model.txt" | tr -d ' ')
    digest="sha256:$(printf '%s %s model.txt\n' "$sum" "$size" | sha256sum | cut -c 1-64)"
    report="{\"path\":\"report.html\",\"size\":7,\"sha256\":\"$(sha256sum <"$output/report.html" | cut -c 1-64)\"}"
    printf '{"schemaVersion":1,"kind":"%s","name":"%s","files":[{"path":"model.txt","size":%s,"sha256":"%s"},%s],"digest":"%s","inputs":[],"createdTime":"2026-01-01T00:00:00Z"}' \
        "$kind" "$name" "$size" "$sum" "$report" "$digest" >"$output/manifest.json"
    printf '{"reason":"Completed","message":"played","artifact":{"uri":"file://%s","digest":"%s","sizeBytes":%s,"createdTime":"2026-01-01T00:00:00Z"},"counts":{"pairs":7},"evaluation":{"accuracy":"0.71","winRate":"0.61"}}' \
        "$output" "$digest" "$size" >"$work/result.json"
    ;;
*)
    printf '{"reason":"TrainerFailed","message":"played exit code %s with sk-abcdefgh12345678"}' "$word" >"$work/result.json"
    exit "$word"
    ;;
esac
