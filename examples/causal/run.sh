#!/bin/sh
# A causal model on Austen's novels and the State of the Union addresses, from raw text to a measured checkpoint.
# Every command is shown before it runs; run it again to resume a training that was stopped.
set -eu

usage() {
    cat <<END
usage: run.sh DATA [DIRECTORY]
  DATA       a folder with lm/austen.txt.xz and sotu/sotu.jsonl.xz (public domain)
  DIRECTORY  where everything is written (default: runs/causal)
About 20 minutes on one quiet CPU core.
END
}
case ${1:-} in -h | --help) usage; exit 0 ;; '') usage >&2; exit 2 ;; esac

data=$1
directory=${2:-runs/causal}
here=$(dirname "$0")

run() { printf '$ %s\n' "$*" >&2; "$@"; }

run python "$here/corpus.py" "$data" "$directory/text"
run multistride prepare --output "$directory/data" --vocabulary-size 4000 --window 256 --carry 32 \
    --train-text "$directory/text/train.jsonl" --validation-text "$directory/text/validation.jsonl"
run multistride train "$here/many-k.yaml" --resume --set "data=$directory/data" --set "run=$directory/many-k"
run multistride evaluate --engine eager --kind generation --model "$directory/many-k/best" --group-size 1,2,4 --mode exact,fast \
    --source "$directory/text/test.prompts.txt" --reference "$directory/text/test.continuations.txt" \
    --max-tokens 64 --threads 1 --name "Austen and State of the Union" --output "$directory/result.json" >/dev/null
run multistride report "$directory/result.json"
