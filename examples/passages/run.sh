#!/bin/sh
# Documents translated by windows of sentences: the model that ships, and one that learned from windows, both measured.
# Every command is shown before it runs; run it again to resume a training that was stopped.
set -eu

usage() {
    cat <<END
usage: run.sh DATA [DIRECTORY]
  DATA       a folder with train.en-de.tsv.xz and dev.en-de.tsv.xz of SuttaCentral (CC0)
  DIRECTORY  where everything is written (default: runs/passages)
About an hour on one quiet CPU core.
END
}
case ${1:-} in -h | --help) usage; exit 0 ;; '') usage >&2; exit 2 ;; esac

data=$1
directory=${2:-runs/passages}
here=$(dirname "$0")

run() { printf '$ %s\n' "$*" >&2; "$@"; }

run python "$here/corpus.py" "$data" "$directory/text"
run multistride prepare --output "$directory/data" --vocabulary english-german \
    --train-source "$directory/text/train.en" --train-target "$directory/text/train.de" \
    --validation-source "$directory/text/validation.en" --validation-target "$directory/text/validation.de"
run multistride train "$here/adapt.yaml" --resume \
    --set "data=$directory/data" --set "run=$directory/adapted"
run python "$here/measure.py" "$data" "$directory/shipped.json"
run python "$here/measure.py" "$data" "$directory/adapted.json" --model "$directory/adapted/best"
