#!/bin/sh
# The model that ships, adapted to Multi30k: a teacher, its beam search, one checkpoint for several K, all measured.
# Every command is shown before it runs; run it again to resume a training that was stopped.
set -eu

usage() {
    cat <<END
usage: adapt.sh DATA COMMONGEN [DIRECTORY]
  DATA       a folder with train.en.gz, train.de.gz, val.en.gz, val.de.gz, test_2016_flickr.en.gz and .de.gz
             (Multi30k, task 1, raw; for research use only)
  COMMONGEN  a folder with train.tsv.xz, dev.tsv.xz and test.tsv.xz (see captions.py)
  DIRECTORY  where everything is written (default: runs/multi30k-adapted)
Two and a half hours on one CPU core.
END
}
case ${1:-} in -h | --help) usage; exit 0 ;; '') usage >&2; exit 2 ;; esac

[ $# -ge 2 ] || { usage >&2; exit 2; }
data=$1
commongen=$2
directory=${3:-runs/multi30k-adapted}
here=$(dirname "$0")
test_set="--source $data/test_2016_flickr.en.gz --reference $data/test_2016_flickr.de.gz"

run() { printf '$ %s\n' "$*" >&2; "$@"; }

run multistride prepare --output "$directory/data" --vocabulary english-german \
    --train-source "$data/train.en.gz" --train-target "$data/train.de.gz" \
    --validation-source "$data/val.en.gz" --validation-target "$data/val.de.gz"
run multistride train "$here/adapt-teacher.yaml" --resume \
    --set "data=$directory/data" --set "run=$directory/teacher"
run multistride distill --model "$directory/teacher/best" \
    --source "$data/train.en.gz" --target "$data/train.de.gz" --output "$directory/train.distilled.de" \
    --validation-source "$data/val.en.gz" --validation-reference "$data/val.de.gz"
run multistride prepare --output "$directory/distilled-data" --vocabulary "$directory/data" \
    --train-source "$data/train.en.gz" --train-target "$directory/train.distilled.de" \
    --validation-source "$data/val.en.gz" --validation-target "$data/val.de.gz"
run multistride train "$here/adapt.yaml" --resume --set "start_from=$directory/teacher/best" \
    --set "data=$directory/distilled-data" --set "run=$directory/many-k"
[ -e "$directory/captions.en" ] || run python "$here/captions.py" "$commongen" "$data" "$directory/captions.en"
run multistride distill --model "$directory/teacher/best" \
    --source "$directory/captions.en" --output "$directory/captions.distilled.de"
run multistride prepare --output "$directory/wide-data" --vocabulary "$directory/data" \
    --train-source "$data/train.en.gz" --train-target "$directory/train.distilled.de" \
    --train-source "$directory/captions.en" --train-target "$directory/captions.distilled.de" \
    --validation-source "$data/val.en.gz" --validation-target "$data/val.de.gz"
run multistride train "$here/adapt-wide.yaml" --resume --set "start_from=$directory/many-k/best" \
    --set "data=$directory/wide-data" --set "run=$directory/wide"
run multistride evaluate --engine eager --model "$directory/teacher/best" --beam 4 --threads 1 $test_set \
    --name "Multi30k en-de, test_2016_flickr, the adapted teacher" --output "$directory/teacher.json" >/dev/null
run multistride evaluate --engine eager --model "$directory/wide/best" --group-size 1,2,4,6,8 --threads 1 $test_set \
    --name "Multi30k en-de, test_2016_flickr, from the model that ships" --output "$directory/result.json" >/dev/null
run multistride report "$directory/result.json" --page "$directory/result.html"
