#!/usr/bin/env bash
# Demonstration models of M²UNet (lobes, severity) and JCS (classification, outlines) on phantoms.
#
#   training/recipes/systems-v1/make.sh WORK
#
# Meant to run beside phantom-v1's WORK: cohorts and cache are the same, made anew where missing.
# Small networks: 16 channels, one block per stage. Whatever was cut off goes on where it was.
set -euo pipefail

work=${1:?usage: make.sh WORK}
recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
phantoms="$recipe/../phantom-v1"
mkdir -p "$work" && cd "$work"

# Patients with lung, lobes, lesions and severity, and what the networks see of them.
m3lung phantom cohort --spec "$phantoms/training.toml" --out learn --workers 2
m3lung phantom cohort --spec "$phantoms/test.toml" --out test --workers 2
[ -e learn/split.csv ] || m3lung cohort split learn/cohort.csv --train 0.88 --validation 0.12
[ -e cache-systems ] || m3lung cohort cache --cohort learn/cohort.csv --out cache-systems --input-size 256

# M²UNet: patches of 96 px, half overlapping, of crops of 192 px.
m3lung train m2unet --cohort cache-systems --out m2unet --base-channels 16 --patch-px 96 --stride-px 48 \
  --stages 192:40
m3lung bundle make-m2unet --run m2unet --name "M2UNet phantom" --version 1.0.0 --out m2unet-v1

# The ablations: each loss alone, and no hierarchy.
for one in "lobes --severity-weight 0" "severity --lobe-weight 0" "flat --hierarchy flat"; do
  read -r name options <<<"$one"
  # shellcheck disable=SC2086 # options are words
  m3lung train m2unet --cohort cache-systems --out "m2unet-$name" --base-channels 16 --patch-px 96 \
    --stride-px 48 --stages 192:40 $options
done

# JCS: any of the three diseases against no infection, since the phantom has all of them.
jcs() {
  m3lung train jcs --cohort cache-systems --small --positive covid19 --positive h1n1 --positive cap "$@"
}
jcs --part classification --out jcs-class --classifier-px 160 --optimizer adam --lr 0.001 \
  --schedule cosine --stages 160:12 --slices-per-epoch 2400
jcs --part segmentation --out jcs-lesions --classifier-px 160 --batch 8 --lr 0.001 --stages 192:12 \
  --slices-per-epoch 2400
jcs --part joint --classification jcs-class --segmentation jcs-lesions --out jcs-joint \
  --classifier-px 160 --batch 8 --lr 0.0005 --stages 192:4 --slices-per-epoch 2400
m3lung bundle make-jcs --classification jcs-class --segmentation jcs-lesions --joint jcs-joint \
  --name "JCS phantom" --version 1.0.0 --out jcs-v1

# What they can do.
m3lung evaluate --bundle m2unet-v1 --cohort test/cohort.csv --out evaluation-m2unet
m3lung evaluate --bundle jcs-v1 --cohort test/cohort.csv --out evaluation-jcs
