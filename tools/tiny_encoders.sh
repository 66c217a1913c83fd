#!/usr/bin/env bash
# Pretrain, pack and probe the tiny encoders that ship with Auscult, two at a time: under an hour on
# two cores. DATA is a folder of tsv corpora: librispeech-speakers, speech-commands-v2-test-subset
# and, for the probes alone, timit-sample. A killed run goes on.
set -euo pipefail
data=${1:?usage: tools/tiny_encoders.sh DATA [FOLDER]}
out=${2:-evidence-out/tiny}
cd "$(dirname "$0")/.."
auscult=.venv/bin/auscult
mkdir -p "$out"
export OMP_NUM_THREADS=1

# Speech Commands' test speakers are held out, LibriSpeech has no labels that are probed here.
speech=(-c "tsv:$data/speech-commands-v2-test-subset#kws_split" -c "$data/librispeech-speakers" -c demo)

make_one() { # FAMILY, the name of its folder, then settings
    local family=$1 name=$2
    shift 2
    echo "== $name" >&2
    "$auscult" pretrain "$family" "${speech[@]}" --preset tiny --out "$out/$name" "$@" \
        >"$out/$name.log" 2>&1 || { cat "$out/$name.log" >&2; exit 1; }
}

pack() { # NAME of the shipped encoder, folder
    .venv/bin/python tools/pack_encoder.py "$1" "$out/$2" "${@:3}"
}

(
    make_one hubert hubert
    teacher=teacher=hubert:$out/hubert
    make_one lighthubert lighthubert-stage1 "$teacher"
    make_one lighthubert lighthubert "$teacher" learning_rate=1e-3 total_steps=1500 \
        stage=2 "start=$out/lighthubert-stage1"
    make_one w2v_bert w2v_bert
) &
first=$!
(
    make_one mockingjay mockingjay
    make_one audio_albert audio_albert
) &
wait "$first"
wait "$!"
pack tiny_hubert hubert
pack tiny_lighthubert lighthubert
pack tiny_mockingjay mockingjay
pack tiny_audio_albert audio_albert
pack tiny_w2v_bert w2v_bert

probe() { # NAME of the encoder, corpus, then options
    local name=$1 corpus=$2
    shift 2
    "$auscult" probe -u "$name" -c "$corpus" --probe linear --out "$out/probes" --json "$@" \
        >"$out/$name-${corpus##*/}.json"
}

for name in hubert lighthubert mockingjay audio_albert w2v_bert; do
    encoder=tiny_$name
    test "$name" != lighthubert || encoder+=@largest
    probe "$encoder" demo -t phone
    probe "$encoder" "tsv:$data/timit-sample" --split split_nosa -t phone39
    pack "tiny_$name" "$name" --probes "$out/$encoder"-*.json
done
du -sh upstreams/weights

# One picture for the README.
"$auscult" probe -u tiny_hubert -u tiny_w2v_bert -u tiny_audio_albert -c "tsv:$data/timit-sample" \
    --split split_nosa -t phone39 --probe linear --out "$out/probes" --quiet
cp "$out/probes/layer_curves.png" docs/figures/tiny_phone39.png
