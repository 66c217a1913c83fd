#!/usr/bin/env bash
# Train the heads of SUPERB's tasks on small real corpora, far shorter than its protocol, and keep
# the records. DATA is the folder of tsv corpora that tools/evidence.sh takes, and librispeech-
# speakers, speechocean762-subset and ami-diarization-excerpts.
#
# Two jobs run at once; each head takes minutes. A killed run goes on.
set -euo pipefail
data=${1:?usage: tools/evidence_tasks.sh DATA}
cd "$(dirname "$0")/.."
auscult=.venv/bin/auscult
records=results/records/tasks
out=evidence-out/tasks
mkdir -p "$records" "$out"
export OMP_NUM_THREADS=1
# Recurrent heads for hours of speech are cut to a quarter of their width.
small=(hidden_dim=256 projector_dim=256 batch_size=8 learning_rate=1e-3)

head() { # NAME, then the arguments of auscult run
    local name=$1
    shift
    echo "== $name" >&2
    "$auscult" run -u fbank -u log_mel -u tiny_hubert -u "random(tiny_hubert)" --no-baselines \
        --out "$out/$name" --json "$@" \
        >"$out/$name.json" 2>"$out/$name.log" || { tail -3 "$out/$name.log" >&2; return 1; }
    mv "$out/$name.json" "$records/$name.json"
}

timit=(-c "tsv:$data/timit-sample" --split split_nosa)
words="tsv:$data/speech-commands-v2-test-subset"
accented="tsv:$data/speechocean762-subset"
(
    head phoneme_recognition-timit "${timit[@]}" -t phoneme_recognition label=phone39 --steps 400
    head phoneme_classification-timit "${timit[@]}" -t phoneme_classification --steps 400
    head keyword_spotting -c "$words" --split kws_split -t keyword_spotting label=label --steps 400 \
        learning_rate=1e-3
    head speaker_identification -c "$words" --split sid_split -t speaker_identification --skip-bad \
        --steps 400 learning_rate=1e-2
    head emotion_recognition -c "tsv:$data/ravdess-subset" -t emotion_recognition --steps 400 \
        learning_rate=1e-3
    head intent_classification -c "tsv:$data/coffee-intents-subset" -t intent_classification \
        --steps 300 learning_rate=1e-3
    # single words, which a recogniser can learn from minutes of speech; SUPERB's masks are as long
    head speech_recognition-words -c "$words" --split kws_split -t speech_recognition --skip-bad \
        "${small[@]}" specaugment=false --steps 1000
    head query_by_example -c "$words" --split kws_split -t query_by_example label=word --limit 150
) &
first=$!
(
    head speech_recognition-timit "${timit[@]}" -t speech_recognition "${small[@]}" --steps 150
    head phoneme_recognition-speechocean -c "$accented" -t phoneme_recognition \
        label=phones_canonical --steps 300
    head speaker_verification -c "tsv:$data/librispeech-speakers" --test-split verify \
        -t speaker_verification --steps 10 crop_seconds=3
    head speaker_diarization -c "tsv:$data/ami-diarization-excerpts" -t speaker_diarization \
        --steps 40
    head speech_recognition-speechocean -c "$accented" -t speech_recognition "${small[@]}" \
        --steps 60
) &
wait "$first"
wait "$!"
