#!/bin/sh
# Chinese to English, from tagged text to a measured checkpoint. Stopped training goes on when this is run again.
set -eu

usage() {
    cat <<END
usage: run.sh DATA [DIRECTORY]
  DATA       a folder with train.en-zh.tsv.xz and dev.en-zh.tsv.xz (see corpus.py)
  DIRECTORY  where everything is written (default: runs/chinese-english)
About two hours on two CPU cores; the updates in the .yaml files are few, raise them for more than a first look.
END
}
case ${1:-} in -h | --help) usage; exit 0 ;; '') usage >&2; exit 2 ;; esac

data=$1
directory=${2:-runs/chinese-english}
text=$directory/text
here=$(dirname "$0")

run() { printf '$ %s\n' "$*" >&2; "$@"; }

[ -e "$text/test.en" ] || run python "$here/corpus.py" "$data" "$text"
run multistride prepare --output "$directory/data" --vocabulary-size 10000 \
    --train-source "$text/train.zh" --train-target "$text/train.en" \
    --validation-source "$text/validation.zh" --validation-target "$text/validation.en"
run multistride train "$here/autoregressive.yaml" --resume \
    --set "data=$directory/data" --set "run=$directory/autoregressive"
run multistride distill --model "$directory/autoregressive/best" \
    --source "$text/train.zh" --target "$text/train.en" --output "$text/train.distilled.en" \
    --validation-source "$text/validation.zh" --validation-reference "$text/validation.en"
run multistride prepare --output "$directory/distilled-data" --vocabulary "$directory/data" \
    --train-source "$text/train.zh" --train-target "$text/train.distilled.en" \
    --validation-source "$text/validation.zh" --validation-target "$text/validation.en"
run multistride train "$here/many-k.yaml" --resume --set "start_from=$directory/autoregressive/best" \
    --set "data=$directory/distilled-data" --set "run=$directory/many-k"
run multistride prepare --output "$directory/mixed-data" --vocabulary "$directory/data" \
    --train-source "$text/train.zh" --train-target "$text/train.distilled.en" \
    --train-source "$text/train.zh" --train-target "$text/train.en" \
    --validation-source "$text/validation.zh" --validation-target "$text/validation.en"
run multistride train "$here/many-k-2.yaml" --resume --set "start_from=$directory/many-k/best" \
    --set "data=$directory/mixed-data" --set "run=$directory/many-k-2"
run multistride evaluate --engine eager --model "$directory/autoregressive/best" --group-size 1 --beam 4 --threads 1 \
    --source "$text/test.zh" --reference "$text/test.en" \
    --name "Chinese-English, the teacher with beam 4" --output "$directory/teacher.json" >/dev/null
run multistride evaluate --engine eager --model "$directory/many-k-2/best" --group-size 1,2,4,6,8 --threads 1 \
    --source "$text/test.zh" --reference "$text/test.en" \
    --name "Chinese-English, dev" --output "$directory/result.json" >/dev/null
run multistride report "$directory/result.json" --page "$directory/result.html"
