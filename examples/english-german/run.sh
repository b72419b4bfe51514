#!/bin/sh
# English to German, from corpora whose licences allow a model to be shipped. Run it again after an interruption: it resumes.
# The weights that ship were made otherwise: on CPU cores, in many stages (docs/training.md).
set -eu

usage() {
    cat <<END
usage: run.sh DATA [DIRECTORY]
  DATA       a folder with tatoeba/, suttacentral/, permissive-ui-strings/ and libreoffice/ (see corpus.py)
  DIRECTORY  where everything is written (default: runs/english-german)
Environment: BEAM (1) of the teacher's translations; TEACHER, STUDENT: further arguments of the two trainings,
for example STUDENT="--set training.updates=5000".
Made for a GPU: half an hour on a large one. On CPU cores it takes days; train for fewer updates there.
END
}
case ${1:-} in -h | --help) usage; exit 0 ;; '') usage >&2; exit 2 ;; esac

data=$1
directory=${2:-runs/english-german}
text=$directory/text
here=$(dirname "$0")

run() { printf '$ %s\n' "$*" >&2; "$@"; }

[ -e "$text/test-suttacentral.de" ] || run python "$here/corpus.py" "$data" "$text"
run multistride prepare --output "$directory/data" --vocabulary-size 8000 \
    --train-source "$text/train.en" --train-target "$text/train.de" \
    --validation-source "$text/validation.en" --validation-target "$text/validation.de"
# shellcheck disable=SC2086
run multistride train "$here/teacher.yaml" --resume \
    --set "data=$directory/data" --set "run=$directory/teacher" ${TEACHER:-}
run multistride distill --model "$directory/teacher/last" --beam "${BEAM:-1}" --batch-size 512 \
    --source "$text/train.en" --target "$text/train.de" --output "$text/train.distilled.de" \
    --validation-source "$text/validation.en" --validation-reference "$text/validation.de"
run python "$here/interpolate.py" "$text/train.en" "$text/train.de" "$text/train.distilled.de" "$directory/interpolated"
run multistride prepare --output "$directory/interpolated-data" --vocabulary "$directory/data" \
    --train-source "$directory/interpolated/train.en" --train-target "$directory/interpolated/train.de" \
    --validation-source "$text/validation.en" --validation-target "$text/validation.de"
# shellcheck disable=SC2086
run multistride train "$here/many-k.yaml" --resume \
    --set "data=$directory/interpolated-data" --set "run=$directory/many-k" ${STUDENT:-}
for name in tatoeba suttacentral; do
    run multistride evaluate --engine eager --model "$directory/many-k/last" --group-size 1,2,4,6,8 --threads 1 \
        --source "$text/test-$name.en" --reference "$text/test-$name.de" \
        --name "$name en-de, dev" --output "$directory/$name.json" >/dev/null
    run multistride evaluate --engine eager --model "$directory/many-k/last" --group-size 4 --mode exact --threads 1 \
        --source "$text/test-$name.en" --reference "$text/test-$name.de" \
        --name "$name en-de, dev, exact" --output "$directory/$name-exact.json" >/dev/null
done
run python "$here/by_length.py" "$directory/many-k/last" "$directory/by-length.json" \
    "tatoeba=$text/test-tatoeba" "suttacentral=$text/test-suttacentral"
run python "$here/release.py" "$directory/many-k/last" "$directory" "$data" "$directory/english-german"
run multistride calibrate --model "$directory/english-german" --source "$text/validation.en"
