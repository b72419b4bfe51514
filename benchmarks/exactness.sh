#!/bin/sh
# Exact mode against greedy K=1 on 20,000 held-out sentences, in batches of 1 and 32: results/exactness-int8.json,
# exactness-eager.json, and exactness-int8-base.json (the first 2,000 sentences). The same command resumes.
set -eu

usage() {
    cat <<END
usage: exactness.sh DATA [MODEL]
  DATA   a folder with tatoeba/ and suttacentral/ (see held_out.py)
  MODEL  a model directory (default: the model that ships); the base model is MODEL, grown (see grow.py)
By environment: BASE names the base model; ONLY=int8, eager or base runs one of the three.
About 25 minutes for int8 on a quiet machine, 90 for all.
END
}
case ${1:-} in -h | --help) usage; exit 0 ;; '') usage >&2; exit 2 ;; esac

here=$(cd "$(dirname "$0")/.." && pwd)
cd "$here"
data=$1 model=${2:-src/multistride/shipped/english-german}
base=${BASE:-runs/base-grown} only=${ONLY:-int8 base eager}
texts=runs/held-out.txt
OMP_NUM_THREADS=1
export OMP_NUM_THREADS

python benchmarks/held_out.py "$data" "$texts"
for part in $only; do
    case $part in
    base)
        [ -f "$base/model.safetensors" ] || python benchmarks/grow.py "$model" "$base"
        head -n 2000 "$texts" >runs/held-out-2000.txt
        python benchmarks/exactness.py "$base" results/exactness-int8-base.json runs/held-out-2000.txt --engine int8
        ;;
    *)
        python benchmarks/exactness.py "$model" "results/exactness-$part.json" "$texts" --engine "$part"
        ;;
    esac
done
