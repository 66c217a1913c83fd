#!/usr/bin/env bash
# Measure fbank and a random-weight HuBERT Base on real labelled speech; records and figures are
# committed. DATA is a folder of tsv corpora: timit-sample, speech-commands-v2-test-subset,
# ravdess-subset and coffee-intents-subset.
set -euo pipefail
data=${1:?usage: tools/evidence.sh DATA}
auscult=$(dirname "$0")/../.venv/bin/auscult
records=results/records
figures=docs/figures
mkdir -p "$records" "$figures"

measure() { # NAME, then the arguments of auscult probe
    local name=$1
    shift
    echo "== $name" >&2
    "$auscult" probe -u fbank -u "random(hubert_base)" "$@" --out "evidence-out/$name" --json \
        >"evidence-out/$name.json"
    mv "evidence-out/$name.json" "$records/$name.json"
    cp "evidence-out/$name/layer_curves.png" "$figures/$name.png"
}

mkdir -p evidence-out
words="tsv:$data/speech-commands-v2-test-subset"
measure phone39 -c "tsv:$data/timit-sample" --split split_nosa -t phone39
measure keyword -c "$words" --split kws_split -t keyword --pooling statistics
measure speaker -c "$words" --split sid_split -t speaker --pooling statistics
measure emotion -c "tsv:$data/ravdess-subset" -t emotion --pooling statistics
measure intent -c "tsv:$data/coffee-intents-subset" -t slot:coffeeDrink -t slot:roast \
    --pooling statistics
