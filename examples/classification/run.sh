#!/bin/sh
# 20 Newsgroups from raw posts to measured classifiers: a pooled head on whole documents and one cut at 512 tokens, both
# also with a wide path, names of groups as targets, and TF-IDF with logistic regression. Stopped training goes on when
# this is run again.
set -eu

usage() {
    cat <<END
usage: run.sh DATA [DIRECTORY]
  DATA       a folder with train.jsonl.xz and test.jsonl.xz (20 Newsgroups, bydate; for research use only)
  DIRECTORY  where everything is written (default: runs/newsgroups)
About an hour and a half on one CPU core.
END
}
case ${1:-} in -h | --help) usage; exit 0 ;; '') usage >&2; exit 2 ;; esac

data=$1
directory=${2:-runs/newsgroups}
here=$(dirname "$0")

run() { printf '$ %s\n' "$*" >&2; "$@"; }

train() {
    name=$1; config=$2; shift 2
    run multistride train "$here/$config" --resume --set "data=$directory/data" --set "run=$directory/$name" "$@"
}

evaluate() {
    run multistride evaluate --task classification --model "$directory/$1/best" --group-size "$2" --threads 1 \
        --source "$directory/test.jsonl" --name "20 Newsgroups, $1" --output "$directory/classification-newsgroups-$1.json"
}

[ -f "$directory/test.jsonl" ] || run python "$here/newsgroups.py" "$data" "$directory"
[ -f "$directory/classification-newsgroups-tfidf.json" ] ||
    run python "$here/baseline.py" "$directory" "$directory/classification-newsgroups-tfidf.json"
[ -d "$directory/data" ] || run multistride prepare --output "$directory/data" --vocabulary-size 16000 \
    --train-records "$directory/train.jsonl" --validation-records "$directory/validation.jsonl"
train pooled newsgroups.yaml
train cut512 newsgroups.yaml --set classifier.first_tokens=512
wide="--set classifier.wide={} --set training.updates=800 --set training.validate_every=200"
train wide newsgroups.yaml $wide
train wide-cut512 newsgroups.yaml $wide --set classifier.first_tokens=512
train labels labels.yaml
for name in pooled cut512 wide wide-cut512 labels; do
    run multistride calibrate --model "$directory/$name/best" --source "$directory/validation.jsonl"
done
evaluate pooled 1
evaluate cut512 1
evaluate wide 1
evaluate wide-cut512 1
evaluate labels 1,4
run python "$here/wide_alone.py" "$directory/wide/best" "$directory/test.jsonl" \
    "$directory/classification-newsgroups-wide-alone.json"
run multistride report "$directory/classification-newsgroups-pooled.json" --figure "$directory/confusion.svg"
run python "$here/compare.py" "$directory"/classification-newsgroups-*.json
