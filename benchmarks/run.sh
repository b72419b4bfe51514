#!/bin/sh
# All result files of docs/speed.md in one go, then its tables. Nothing else should run meanwhile.
set -eu

usage() {
    cat <<END
usage: run.sh SOURCE REFERENCE [SMALL_MODEL]
  SOURCE, REFERENCE  text, line by line (English and German for the model that ships)
  SMALL_MODEL        a model directory for the small rows (default: the model that ships)
The base model is the one that ships, grown (benchmarks/grow.py).
By environment: SENTENCES, ROUNDS, BATCHES and ENGINE change how long it takes and what is measured; BASE names the base
model; AGAINST_MODEL names a deep-shallow autoregressive model for the base rows; QUALITY_MODEL, QUALITY_SOURCE and
QUALITY_REFERENCE (all of them or none) are a model and a test set on which int8 is compared with float32.
About 20 minutes on a quiet two-core machine.
END
}
case ${1:-} in -h | --help) usage; exit 0 ;; esac
case ${2:-} in '') usage >&2; exit 2 ;; esac

source=$1 reference=$2
here=$(cd "$(dirname "$0")/.." && pwd)
shipped=$here/src/multistride/shipped/english-german
small=${3:-$shipped}
engine=${ENGINE:-int8} sentences=${SENTENCES:-64} rounds=${ROUNDS:-3} batches=${BATCHES:-1,2,4,8,16,32,64}
base=${BASE:-$here/runs/base-grown}
others=own-k1,ctranslate2-int8,ctranslate2-float32,transformers-float32

[ -f "$base/model.safetensors" ] || python "$here/benchmarks/grow.py" "$shipped" "$base"
mkdir -p "$here/results"

measure() { # NAME MODEL OPTIONS...
    file=$here/results/bench-$1.json model=$2
    shift 2
    echo "--- $(basename "$file") $(date +%T)" >&2
    multistride bench --model "$model" --source "$source" --reference "$reference" \
        --sentences "$sentences" --rounds "$rounds" --threads 1 --output "$file" "$@"
}

picture() { # NAME
    multistride report "$here/results/bench-$1.json" --markdown --figure "$here/docs/pictures/bench-$1.svg" >/dev/null
}

measure base "$base" --name "Transformer-base" --engine "$engine" --batch-size "$batches" --against "$others" \
    ${AGAINST_MODEL:+--against-model "$AGAINST_MODEL"}
picture base
measure small "$small" --name "Small" --engine "$engine" --batch-size "$batches" --against "$others"
picture small
measure modes "$base" --name "Transformer-base, exact and adaptive" --engine "$engine" --batch-size 1,8,32 \
    --mode exact,adaptive --group-size 2,4,6,8 --against own-k1,ctranslate2-int8
measure eager "$base" --name "Transformer-base, eager" --engine eager --batch-size 1,8,32 --against own-k1,ctranslate2-int8
if [ "$(getconf _NPROCESSORS_ONLN)" -gt 1 ]; then # not nproc, which heeds OMP_NUM_THREADS
    measure threads "$base" --name "Transformer-base, two threads" --engine "$engine" --batch-size 1,8,32 \
        --group-size 1,4 --against own-k1,ctranslate2-int8 --threads 2
fi
python "$here/benchmarks/profile_parts.py" "$base" "$source" --engine "$engine" --group-size 1,4,8 --output "$here/results/profile-base.json"
python "$here/benchmarks/profile_parts.py" "$small" "$source" --engine "$engine" --group-size 1,4,8 --output "$here/results/profile-small.json"
python "$here/benchmarks/startup.py" --engine "eager,$engine" --output "$here/results/startup.json"
if [ -n "${QUALITY_MODEL:-}" ]; then
    for kind in eager "$engine"; do
        multistride evaluate --model "$QUALITY_MODEL" --source "$QUALITY_SOURCE" --reference "$QUALITY_REFERENCE" \
            --group-size 1,2,4,8 --engine "$kind" --threads 1 --latency-sentences 100 --examples 0 \
            --name "Quality, $kind" --output "$here/results/quality-$kind.json"
    done
fi
python "$here/benchmarks/tables.py"
