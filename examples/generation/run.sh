#!/bin/sh
# Text generation, from a corpus to a measured checkpoint. Stopped training goes on when this is run again.
set -eu

usage() {
    cat <<END
usage: run.sh DATA [DIRECTORY [CORPUS]]
  DATA       the folder that holds the corpus's own (DATA/commongen has train.tsv.xz, ...; see corpus.py)
  DIRECTORY  where everything is written (default: runs/generation)
  CORPUS     commongen (the default: a sentence from concepts), scitldr or dialogsum
commongen takes two hours on one CPU core. The other two have too few texts for a model from nothing: they
show the same commands on long sources, with the teacher of long.yaml.
END
}
case ${1:-} in -h | --help) usage; exit 0 ;; '') usage >&2; exit 2 ;; esac

data=$1
directory=${2:-runs/generation}
corpus=${3:-commongen}
text=$directory/text
here=$(dirname "$0")

case $corpus in
commongen) teacher=$here/autoregressive.yaml longest=256 ;;
scitldr | dialogsum) teacher=$here/long.yaml longest=768 ;;
*) usage >&2; exit 2 ;;
esac

run() { printf '$ %s\n' "$*" >&2; "$@"; }

[ -e "$text/distill.source" ] || run python "$here/corpus.py" "$corpus" "$data/$corpus" "$text"
run multistride prepare --output "$directory/data" --vocabulary-size 4000 \
    --max-tokens "$longest" --max-length-ratio 60 \
    --train-source "$text/train.source" --train-target "$text/train.target" \
    --validation-source "$text/validation.source" --validation-target "$text/validation.target"
run multistride train "$teacher" --resume \
    --set "data=$directory/data" --set "run=$directory/autoregressive"
run multistride distill --model "$directory/autoregressive/best" \
    --source "$text/distill.source" --output "$text/distill.target" \
    --validation-source "$text/validation.source" --validation-reference "$text/validation.target"
run multistride prepare --output "$directory/distilled-data" --vocabulary "$directory/data" \
    --max-tokens "$longest" --max-length-ratio 60 \
    --train-source "$text/distill.source" --train-target "$text/distill.target" \
    --validation-source "$text/validation.source" --validation-target "$text/validation.target"
run multistride train "$here/many-k.yaml" --resume --set "start_from=$directory/autoregressive/best" \
    --set "data=$directory/distilled-data" --set "run=$directory/many-k"
run multistride train "$here/many-k-2.yaml" --resume --set "start_from=$directory/many-k/best" \
    --set "data=$directory/distilled-data" --set "run=$directory/many-k-2"
run multistride evaluate --engine eager --task generation --source "$text/test.jsonl" --threads 1 \
    --model "$directory/many-k-2/best" --teacher "$directory/autoregressive/best" \
    --group-size 1,2,4,6,8 --mode fast,exact --name "$corpus, test" --output "$directory/result.json" >/dev/null
run multistride report "$directory/result.json" --figure "$directory/kept.svg"
