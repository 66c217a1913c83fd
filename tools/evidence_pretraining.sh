#!/usr/bin/env bash
# What pretraining and distillation at this size do: Mockingjay beside Audio ALBERT, a teacher beside
# its DistilHuBERT and its LightHuBERT supernets, w2v-BERT with and without its contrastive loss, a
# transducer, a search. Probes of phones, keywords and speakers; records and figures are committed.
# DATA is the folder of tools/tiny_encoders.sh, whose FOLDER must be complete. A killed run goes on.
set -euo pipefail
data=${1:?usage: tools/evidence_pretraining.sh DATA [FOLDER OF tiny_encoders.sh]}
tiny=${2:-evidence-out/tiny}
cd "$(dirname "$0")/.."
auscult=.venv/bin/auscult
out=evidence-out/pretraining
records=results/records/pretraining
mkdir -p "$out" "$records"
export OMP_NUM_THREADS=1
words="tsv:$data/speech-commands-v2-test-subset"
speech=(-c "$words#kws_split" -c "$data/librispeech-speakers" -c demo)

train() { # FAMILY, name, settings
    local family=$1 name=$2
    shift 2
    echo "== $name" >&2
    "$auscult" pretrain "$family" "${speech[@]}" --preset tiny --out "$out/$name" "$@" \
        >"$out/$name.log" 2>&1 || { cat "$out/$name.log" >&2; exit 1; }
}

# Three subnets at each step, so a third of the steps for the same audio through blocks.
teacher=teacher=hubert:$tiny/hubert
second=(learning_rate=1e-3 stage=2 "start=$tiny/lighthubert-stage1")
(
    train distilhubert distilhubert "$teacher"
    train lighthubert sandwich "$teacher" "${second[@]}" total_steps=500 sandwich=true
) &
first=$!
(
    train w2v_bert w2v_bert-alone contrastive_weight=0
    "$auscult" finetune "w2v_bert:$tiny/w2v_bert" -c "$words" --split kws_split --skip-bad \
        --preset tiny --out "$out/transducer" --json \
        >"$out/transducer.part" 2>"$out/transducer.log" ||
        { tail -3 "$out/transducer.log" >&2; exit 1; }
    mv "$out/transducer.part" "$records/transducer.json"
) &
wait "$first"
wait "$!"

measure() { # NAME, then encoders
    local name=$1 encoders=()
    shift
    for encoder; do encoders+=(-u "$encoder"); done
    echo "== probes: $name" >&2
    local folder="$out/probes-$name"
    probe "$folder/phone39" "${encoders[@]}" -c "tsv:$data/timit-sample" --split split_nosa -t phone39
    probe "$folder/keyword" "${encoders[@]}" -c "$words" --split kws_split -t keyword \
        --pooling statistics
    probe "$folder/speaker" "${encoders[@]}" -c "$words" --split sid_split -t speaker \
        --pooling statistics --skip-bad
    .venv/bin/python tools/draw_pretraining.py "$name" "$folder" "$tiny" "$out"
}

probe() { # FOLDER, then the arguments of auscult probe
    local folder=$1
    shift
    mkdir -p "$folder"
    "$auscult" probe "$@" --probe linear --no-baselines --out "$folder" --json \
        >"$folder/found.part" 2>"$folder/log" || { tail -3 "$folder/log" >&2; exit 1; }
    mv "$folder/found.part" "$folder/found.json"
}

sizes=(smallest "params<=250k" "params<=400k" "params<=550k" largest)
twins=("${sizes[@]/#/random(lighthubert:$tiny/lighthubert@}") # of all three supernets, alike in shape
twins=("${twins[@]/%/)}")
(
    measure sharing fbank log_mel tiny_mockingjay tiny_audio_albert \
        "random(tiny_mockingjay)" "random(tiny_audio_albert)"
    measure contrastive fbank log_mel tiny_w2v_bert "w2v_bert:$out/w2v_bert-alone" \
        "random(tiny_w2v_bert)"
) &
first=$!
(
    measure distillation fbank log_mel "hubert:$tiny/hubert" "random(hubert:$tiny/hubert)" \
        "distilhubert:$out/distilhubert" "random(distilhubert:$out/distilhubert)" \
        "${twins[@]}" \
        "${sizes[@]/#/lighthubert:$tiny/lighthubert-stage1@}" \
        "${sizes[@]/#/lighthubert:$tiny/lighthubert@}" \
        "${sizes[@]/#/lighthubert:$out/sandwich@}"
) &
wait "$first"
wait "$!"

seek() { # NAME, supernet, then the arguments of auscult subnet search
    local name=$1 supernet=$2
    shift 2
    echo "== $name" >&2
    "$auscult" subnet search "lighthubert:$supernet" -c "tsv:$data/timit-sample" \
        --split split_nosa --budget "params<=550k" --out "$out/$name" --json "$@" \
        >"$out/$name.part" 2>"$out/$name.log" || { tail -3 "$out/$name.log" >&2; exit 1; }
    mv "$out/$name.part" "$records/$name.json"
}

# How far the named subnets, and one drawn, are from the teacher.
distance=(--objective distill --strategy random --evaluations 4)
seek distance-stage1 "$tiny/lighthubert-stage1" "${distance[@]}"
seek distance-stage2 "$tiny/lighthubert" "${distance[@]}"
seek distance-sandwich "$out/sandwich" "${distance[@]}"
seek search "$tiny/lighthubert" --objective probe:phone39 --evaluations 40
cp "$out/search/front.png" docs/figures/pretraining_search.png
