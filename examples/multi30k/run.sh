#!/bin/sh
# English to German on Multi30k, from raw text to a measured checkpoint for several K.
# Every command is shown before it runs; run it again to resume a training that was stopped.
set -eu

usage() {
    cat <<END
usage: run.sh DATA [DIRECTORY]
  DATA       a folder with train.en.gz, train.de.gz, val.en.gz, val.de.gz, test_2016_flickr.en.gz and .de.gz
             (Multi30k, task 1, raw; for research use only)
  DIRECTORY  where everything is written (default: runs/multi30k)
About four hours on two CPU cores.
END
}
case ${1:-} in -h | --help) usage; exit 0 ;; '') usage >&2; exit 2 ;; esac

data=$1
directory=${2:-runs/multi30k}
here=$(dirname "$0")

run() { printf '$ %s\n' "$*" >&2; "$@"; }

run multistride prepare --output "$directory/data" --vocabulary-size 8000 \
    --train-source "$data/train.en.gz" --train-target "$data/train.de.gz" \
    --validation-source "$data/val.en.gz" --validation-target "$data/val.de.gz"
run multistride train "$here/autoregressive.yaml" --resume \
    --set "data=$directory/data" --set "run=$directory/autoregressive"
run multistride distill --model "$directory/autoregressive/best" \
    --source "$data/train.en.gz" --target "$data/train.de.gz" --output "$directory/train.distilled.de" \
    --validation-source "$data/val.en.gz" --validation-reference "$data/val.de.gz"
run multistride prepare --output "$directory/distilled-data" --vocabulary "$directory/data" \
    --train-source "$data/train.en.gz" --train-target "$directory/train.distilled.de" \
    --validation-source "$data/val.en.gz" --validation-target "$data/val.de.gz"
run multistride train "$here/multistride.yaml" --resume --set "start_from=$directory/autoregressive/best" \
    --set "data=$directory/distilled-data" --set "run=$directory/multistride"
run multistride train "$here/markov.yaml" --resume --set "start_from=$directory/multistride/best" \
    --set "data=$directory/distilled-data" --set "run=$directory/markov"
run multistride train "$here/many-k.yaml" --resume --set "start_from=$directory/markov/best" \
    --set "data=$directory/distilled-data" --set "run=$directory/many-k"
run multistride evaluate --engine eager --model "$directory/many-k/best" --group-size 1,2,4,6,8 --threads 1 \
    --source "$data/test_2016_flickr.en.gz" --reference "$data/test_2016_flickr.de.gz" \
    --name "Multi30k en-de, test_2016_flickr" --output "$directory/result.json" >/dev/null
run multistride report "$directory/result.json" --page "$directory/result.html"
