#!/usr/bin/env bash
# Trains with N processes on this machine, as if each were a machine.
#
#   launch/local.sh N train --config=FILE --workdir=DIR [...]
#
# All processes must see the same workdir and records. On GPUs, process I gets
# GPU I; on CPUs, JAX_NUM_CPU_DEVICES sets how many devices each has. SIGTERM
# or Ctrl-C to this script reaches all: they save the same step and end. The
# same command, or one with another N, continues.
#
# Exit status: that of `brainjax train`, 75 if stopped after saving; if the
# processes differ, the first that is neither 0 nor 75.
set -uo pipefail

if [[ $# -lt 2 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: ${0##*/} N train --config=FILE --workdir=DIR [...]" >&2
  exit 2
fi
count=$1
shift

python=${PYTHON:-python3}
port=$("$python" -c 'import socket
with socket.socket() as s:
  s.bind(("127.0.0.1", 0))
  print(s.getsockname()[1])') || exit 2

children=()
for ((i = 0; i < count; i++)); do
  if [[ ${JAX_PLATFORMS:-} != cpu ]] && command -v nvidia-smi >/dev/null; then
    export CUDA_VISIBLE_DEVICES=$i
  fi
  "$python" -m brainjax.cli "$@" \
    "--distributed=127.0.0.1:$port,$count,$i" &
  children+=($!)
done

trap 'kill -TERM "${children[@]}" 2>/dev/null' TERM INT

status=0
for ((ended = 0; ended < count; )); do
  wait -n "${children[@]}"
  code=$?
  running=()
  for child in "${children[@]}"; do
    kill -0 "$child" 2>/dev/null && running+=("$child")
  done
  # A signal ends `wait` too, and then nobody need have ended.
  ((${#running[@]} + ended == count)) && continue
  ended=$((count - ${#running[@]}))
  children=("${running[@]}")
  if [[ $code -ne 0 && ($status -eq 0 || $status -eq 75) ]]; then
    status=$code
    # The others would wait for it for ever.
    [[ $code -ne 75 && $ended -lt $count ]] && kill -KILL "${children[@]}"
  fi
done
exit "$status"
