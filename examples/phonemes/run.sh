#!/bin/sh
# English spelling to phonemes, from the dictionary to the model that ships. Run it again after an interruption: it resumes.
set -eu

usage() {
    cat <<END
usage: run.sh CMUDICT [DIRECTORY]
  CMUDICT    a folder with train.tsv.xz, dev.tsv.xz, test.tsv.xz (word, tab, phonemes) and LICENSE
  DIRECTORY  where everything is written (default: runs/phonemes)
About 25 minutes beside other work on a GPU; --set training.updates=... in TRAIN trains for a shorter time.
The comparison needs the package g2p-en unpacked on PYTHONPATH (see against_g2p_en.py).
END
}
case ${1:-} in -h | --help) usage; exit 0 ;; '') usage >&2; exit 2 ;; esac

dictionary=$1
directory=${2:-runs/phonemes}
text=$directory/text
here=$(dirname "$0")

run() { printf '$ %s\n' "$*" >&2; "$@"; }

[ -e "$text/test.phonemes" ] || run python "$here/words.py" "$dictionary" "$text"
run multistride prepare --output "$directory/data" --vocabulary-kind words --max-tokens 63 \
    --train-source "$text/train.letters" --train-target "$text/train.phonemes" \
    --validation-source "$text/validation.letters" --validation-target "$text/validation.phonemes"
# shellcheck disable=SC2086
run multistride train "$here/many-k.yaml" --resume --set "data=$directory/data" --set "run=$directory/many-k" ${TRAIN:-}
run multistride evaluate --engine eager --model "$directory/many-k/last" --group-size 1,2,4,6 --threads 1 \
    --source "$text/test.letters" --reference "$text/test.phonemes" --kind phonemes --tokenize none \
    --name "CMUdict, spelling to phonemes" --output "$directory/result.json" >/dev/null
run multistride report "$directory/result.json"
if python -c 'import importlib.util as u; raise SystemExit(u.find_spec("g2p_en") is None)'; then
    run python "$here/against_g2p_en.py" "$directory/many-k/last" "$dictionary/test.tsv.xz" \
        --output "$directory/against-g2p-en.json" >/dev/null
    run python "$here/release.py" "$directory/many-k/last" "$directory/result.json" \
        "$directory/against-g2p-en.json" "$dictionary/LICENSE" "$directory/english-phonemes"
    run multistride calibrate --model "$directory/english-phonemes" \
        --source "$text/validation.letters" --reference "$text/validation.phonemes"
fi
