#!/usr/bin/env bash
# The commands that phantom-v1 was made with, from nothing to the bundle with its card.
#
#   training/recipes/phantom-v1/make.sh WORK
#
# WORK gets 3 GB. On two CPU cores it takes some two hours. Whatever was cut off goes on where it was.
set -euo pipefail

work=${1:?usage: make.sh WORK}
recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$work" && cd "$work"

# Patients, and what the network sees of them.
m3lung phantom cohort --spec "$recipe/training.toml" --out learn --workers 2
m3lung phantom cohort --spec "$recipe/test.toml" --out test --workers 2
m3lung cohort split learn/cohort.csv --train 0.88 --validation 0.12
m3lung cohort cache --cohort learn/cohort.csv --out cache --input-size 256

# Slices: small first, larger last. One process per core, each with one thread.
export OMP_NUM_THREADS=1
train() { torchrun --nproc-per-node 2 -m dicom_node train "$@"; }
slices() {
  train slices --cohort cache --augment strong --normal-slices --mask-weight 1 --batch 24 \
    --slices-per-epoch 2400 --validation-slices 6 --optimizer adamw "$@"
}
slices --out slices-96 --stages 96:9:0.0005 --warmup-steps 100
slices --out slices-160 --start-from slices-96 --stages 160:2:0.0003 --warmup-steps 30

# Patients: ended by hand in the eleventh epoch; the best by the validation patients was the tenth.
train patients --cohort cache --slices slices-160 --out patients --center -600 \
  --optimizer adamw --lr 0.0003 --schedule cosine --epochs 60
unset OMP_NUM_THREADS

# Bundle, temperatures, threshold of the map.
m3lung bundle make --slices slices-160 --patients patients --out trained \
  --name "M3Lung-Sys phantom" --version 1.0.0 \
  --description "400 synthetic patients of m3lung phantom, generator 4, training family"
m3lung calibrate --bundle trained --cohort learn/cohort.csv --out phantom-v1

# What it can do.
m3lung evaluate --bundle phantom-v1 --cohort test/cohort.csv --out evaluation
python "$recipe/../../../benchmarks/real_slices.py" --bundle phantom-v1 --json real.json   # with the data
m3lung bundle card phantom-v1 --evaluation evaluation --real real.json --notes "$recipe/notes.md"
