#!/bin/sh
# English to German from corpora that allow a model to be shipped. Stopped training goes on when this is run again.
set -eu

usage() {
    cat <<END
usage: run.sh DATA [DIRECTORY]
  DATA       a folder with tatoeba/, suttacentral/ and permissive-ui-strings/ (see corpus.py)
  DIRECTORY  where everything is written (default: runs/english-german)
About four and a half hours on two CPU cores.
END
}
case ${1:-} in -h | --help) usage; exit 0 ;; '') usage >&2; exit 2 ;; esac

data=$1
directory=${2:-runs/english-german}
text=$directory/text
here=$(dirname "$0")

run() { printf '$ %s\n' "$*" >&2; "$@"; }

[ -e "$text/train.en" ] || run python "$here/corpus.py" "$data" "$text"
run multistride prepare --output "$directory/data" --vocabulary-size 8000 \
    --train-source "$text/train.en" --train-target "$text/train.de" \
    --validation-source "$text/validation.en" --validation-target "$text/validation.de"
run multistride train "$here/autoregressive.yaml" --resume \
    --set "data=$directory/data" --set "run=$directory/autoregressive"
run multistride train "$here/teacher.yaml" --resume --set "start_from=$directory/autoregressive/best" \
    --set "data=$directory/data" --set "run=$directory/teacher"
run multistride distill --model "$directory/teacher/best" \
    --source "$text/train.en" --target "$text/train.de" --output "$text/train.distilled.de" \
    --validation-source "$text/validation.en" --validation-reference "$text/validation.de"
run multistride prepare --output "$directory/distilled-data" --vocabulary "$directory/data" \
    --train-source "$text/train.en" --train-target "$text/train.distilled.de" \
    --validation-source "$text/validation.en" --validation-target "$text/validation.de"
run multistride train "$here/many-k.yaml" --resume --set "start_from=$directory/teacher/best" \
    --set "data=$directory/distilled-data" --set "run=$directory/many-k"
run multistride train "$here/many-k-2.yaml" --resume --set "start_from=$directory/many-k/best" \
    --set "data=$directory/distilled-data" --set "run=$directory/many-k-2"
run multistride evaluate --model "$directory/many-k-2/best" --group-size 1,2,4,6,8 --threads 1 \
    --source "$text/test.en" --reference "$text/test.de" \
    --name "Tatoeba en-de, dev" --output "$directory/result.json" >/dev/null
run multistride report "$directory/result.json" --page "$directory/result.html"
