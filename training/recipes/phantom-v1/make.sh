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

# Slices: small first, large last. One process per core, each with one thread, is faster here than
# one process with two.
export OMP_NUM_THREADS=1
slices() {
  torchrun --nproc-per-node 2 -m dicom_node train slices --cohort cache --augment strong \
    --normal-slices --mask-weight 1 --batch 24 --slices-per-epoch 2400 --validation-slices 6 "$@"
}
slices --out slices-96 --stages 96:10:0.03 --warmup-steps 100
slices --out slices-160 --start-from slices-96 --stages 160:3:0.01
slices --out slices-256 --start-from slices-160 --stages 256:2:0.004
unset OMP_NUM_THREADS

# Patients, probabilities, threshold.
m3lung train patients --cohort cache --slices slices-256 --out patients \
  --optimizer adamw --lr 0.0003 --schedule cosine --epochs 60
m3lung bundle make --slices slices-256 --patients patients --name phantom --version 1 --out trained
m3lung calibrate --bundle trained --cohort learn/cohort.csv --out phantom-v1

# What it can do.
m3lung evaluate --bundle phantom-v1 --cohort test/cohort.csv --out evaluation
