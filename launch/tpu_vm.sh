#!/usr/bin/env bash
# Trains on all hosts of a Cloud TPU VM (or slice), over `gcloud ... ssh`.
#
#   TPU=name ZONE=us-central2-b launch/tpu_vm.sh \
#     --config=configs/densenet_lstm.py --workdir=/mnt/shared/runs/a \
#     --config.data.records=/mnt/shared/records
#
# It copies this checkout to every host, installs brainjax with `[tpu]` into a
# virtual environment once, and runs `brainjax train` on all hosts at the same
# time. Workdir and records lie on a file system that all hosts see (Filestore,
# or a bucket mounted with gcsfuse). The same command continues a run.
#
# Checked with `bash -n`; not yet run on a TPU.
set -euo pipefail

: "${TPU:?set TPU to the name of the TPU VM}"
: "${ZONE:?set ZONE to its zone}"
cd "$(dirname "${BASH_SOURCE[0]}")/.."

archive=$(mktemp --suffix=.tar.gz)
trap 'rm -f "$archive"' EXIT
git archive --format=tar.gz --output="$archive" HEAD

gcloud compute tpus tpu-vm scp "$archive" "$TPU:brainjax.tar.gz" \
  --zone="$ZONE" --worker=all

# Quoted once more, for it is a shell on the hosts that reads it.
printf -v arguments '%q ' "$@"
gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command "
  set -e
  mkdir -p brainjax && tar -xzf brainjax.tar.gz -C brainjax && cd brainjax
  test -x .venv/bin/brainjax || python3 -m venv .venv
  .venv/bin/pip install -q -e '.[tpu]'
  .venv/bin/brainjax train $arguments --distributed"
