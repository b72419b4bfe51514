#!/bin/sh
# Every route of a running `multistride serve` with curl.
#
#     multistride serve &
#     examples/serve/client.sh [URL]
set -eu
case ${1:-} in -h | --help) echo 'usage: client.sh [URL]  (default: http://127.0.0.1:8000)'; exit 0 ;; esac
url=${1:-http://127.0.0.1:8000}

post() {
    path=$1
    shift
    echo "== POST $path"
    curl --silent --show-error --fail-with-body --no-buffer "$url$path" \
        --header 'Content-Type: application/json' --data "$1"
    echo
}

for path in /health /ready /version /v1/models /languages; do
    echo "== GET $path"
    curl --silent --show-error --fail-with-body "$url$path"
    echo
done
post /v1/translate '{"text": ["Good morning.", "Where is the station?"], "group_size": 4}'
post /v1/completions '{"prompt": "Good morning.", "group_size": 4, "mode": "exact", "stream": true}'
post /translate '{"q": "Good morning.", "source": "en", "target": "de"}'
