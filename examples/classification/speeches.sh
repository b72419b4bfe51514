#!/bin/sh
# The era of whole speeches (up to 34,000 words) by cross-validation, against TF-IDF with logistic regression.
# Stopped training goes on when this is run again.
set -eu

usage() {
    cat <<END
usage: speeches.sh DATA [DIRECTORY]
  DATA       a folder with sotu.jsonl.xz (State of the Union addresses; public domain)
  DIRECTORY  where everything is written (default: runs/speeches)
About half an hour on one CPU core.
END
}
case ${1:-} in -h | --help) usage; exit 0 ;; '') usage >&2; exit 2 ;; esac

data=$1
directory=${2:-runs/speeches}
here=$(dirname "$0")

run() { printf '$ %s\n' "$*" >&2; "$@"; }

[ -f "$directory/fold-3/train.jsonl" ] || run python "$here/speeches.py" "$data/sotu.jsonl.xz" "$directory" 3
for fold in 1 2 3; do
    place=$directory/fold-$fold
    [ -f "$place/tfidf.json" ] || run python "$here/baseline.py" "$place" "$place/tfidf.json"
    [ -d "$place/data" ] || run multistride prepare --output "$place/data" --vocabulary-size 8000 \
        --train-records "$place/train.jsonl" --validation-records "$place/validation.jsonl"
    run multistride train "$here/speeches.yaml" --resume --set "data=$place/data" --set "run=$place/pooled"
    run multistride evaluate --task classification --model "$place/pooled/best" --source "$place/test.jsonl" \
        --threads 1 --name "State of the Union, fold $fold" --output "$place/pooled.json"
    run multistride train "$here/speeches.yaml" --resume --set "data=$place/data" --set "run=$place/wide" \
        --set classifier.wide={} --set training.updates=40 --set training.validate_every=40 \
        --set training.warmup_updates=10
    run multistride evaluate --task classification --model "$place/wide/best" --source "$place/test.jsonl" \
        --threads 1 --name "State of the Union, wide, fold $fold" --output "$place/wide.json"
done
run python "$here/compare.py" --together "$directory"/fold-*/tfidf.json --output "$directory/classification-speeches-tfidf.json"
run python "$here/compare.py" --together "$directory"/fold-*/pooled.json --output "$directory/classification-speeches-pooled.json"
run python "$here/compare.py" --together "$directory"/fold-*/wide.json --output "$directory/classification-speeches-wide.json"
run python "$here/lengths.py" "$directory/fold-1/pooled/best" "$directory/fold-1/test.jsonl" \
    "$directory/classification-lengths.json"
