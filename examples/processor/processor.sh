#!/usr/bin/env bash
# A processor in bash, with psql, curl and jq. It processes one row at a time and reads documents in UTF-8.
set -u
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$work"' EXIT
trap 'exit 0' TERM INT

# Runs SQL from standard input; -v name=value sets :'name'.
sql() { psql "$KNOWLEDGE_DOCUMENTS_URL" -XqAt -v ON_ERROR_STOP=1 "$@"; }
field() { jq -r "$1 // empty" <<<"$row"; }
beat() { while sleep 40; do sql -v t="$token" <<<"SELECT heartbeat_response(:'t', '2 minutes')" >"$work/beat"; done; }
fail() { sql -v t="$token" -v why="$1" <<<"SELECT fail_response(:'t', :'why')"; }
give_back() {
    sql -v t="$token" -v why="$1" -v s="$2" <<<"SELECT fail_response(:'t', :'why', retry => true,
        not_before => make_interval(secs => least(:'s'::int, 86400)), counted => false)"
}

answer() {
    local name key url port status score text
    name=$(field .connection_details.api_key_env) key=none
    [ -z "$name" ] || key=${!name:-}
    [ -n "$key" ] || { give_back "$name is not set" 60; echo "$name is not set" >&2; exit 1; }
    printf 'Authorization: Bearer %s' "$key" >"$work/key" # not an argument, which others could see
    url=$(field .connection_details.base_url) port=$(field .connection_details.port_no)
    [[ -z $port || $url =~ ^[a-z]+://[^/]*:[0-9]+(/|$) ]] ||
        url=$(sed -E "s#^([a-z]+://[^/]+)#\1:$port#" <<<"$url")
    sql -v id="$(field .document_id)" <<<"SELECT content FROM docs WHERE id = :id" | base64 -d >"$work/text"
    iconv -f UTF-8 -t UTF-8 "$work/text" >/dev/null 2>&1 || { fail "the document is not text in UTF-8"; return; }
    jq -n --argjson row "$row" --rawfile text "$work/text" '$row.connection_details as $to
        | {model: $to.model_name, messages: [{role: "user", content: ($row.prompt_text + "\n\n" + $text)}]}
        + $to.connection_config' >"$work/request"
    status=$(curl -sS -m 300 -o "$work/answer" -D "$work/headers" -w '%{http_code}' -H @"$work/key" \
        -H 'Content-Type: application/json' --data-binary @"$work/request" "${url%/}/chat/completions")
    case $status in
    200)
        text=$(jq -r '.choices[0].message.content' "$work/answer" | tr -d '\0')
        score=$(sed -nE 's/^Score: ([0-9]+(\.[0-9]+)?)$/\1/p' <<<"$text" | tail -n 1)
        sql -v t="$token" -v score="$score" -v text="$text" \
            -v read="$(jq '.usage.prompt_tokens // ""' "$work/answer")" \
            -v wrote="$(jq '.usage.completion_tokens // ""' "$work/answer")" <<<"SELECT complete_response(
                :'t', nullif(:'score', '')::float8, :'text', input_tokens => nullif(:'read', '')::int,
                output_tokens => nullif(:'wrote', '')::int)"
        ;;
    000 | 429 | 503)
        score=$(sed -nE 's/^retry-after: *([0-9]{1,6}).*/\1/Ip' "$work/headers" | tail -n 1)
        give_back "the model is busy or out of reach ($status)" "${score:-60}"
        ;;
    401 | 403) give_back "the key in $name was rejected" 60; echo "the key in $name was rejected" >&2; exit 1 ;;
    *) fail "the model answered $status: $(head -c 500 "$work/answer")" ;;
    esac
}

while :; do
    row=$(sql <<<"SELECT to_json(r) FROM claim_responses(1, '2 minutes', 'bash') AS r") || { sleep 5; continue; }
    [ -n "$row" ] || { sleep 1; continue; }
    token=$(field .token)
    beat & pulse=$!
    answer
    kill "$pulse"
done
