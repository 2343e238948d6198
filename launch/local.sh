#!/usr/bin/env bash
# Trains with N processes on this machine, as if each were a machine.
#
#   launch/local.sh N train --config=FILE --workdir=DIR [...]
#
# All processes must see the same workdir and records. On GPUs, process I gets
# GPU I (of CUDA_VISIBLE_DEVICES, if that is set); on CPUs, JAX_NUM_CPU_DEVICES sets how many devices each has. SIGTERM
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

IFS=, read -ra gpus <<<"${CUDA_VISIBLE_DEVICES:-$(seq -s, 0 $((count - 1)))}"

children=()
for ((i = 0; i < count; i++)); do
  if [[ ${JAX_PLATFORMS:-} != cpu ]] && command -v nvidia-smi >/dev/null; then
    export CUDA_VISIBLE_DEVICES=${gpus[i]:?fewer GPUs than processes}
  fi
  "$python" -m brainjax.cli "$@" \
    "--distributed=127.0.0.1:$port,$count,$i" &
  children+=($!)
done

trap 'kill -TERM "${children[@]}" 2>/dev/null' TERM INT

status=0
while ((${#children[@]})); do
  wait -n "${children[@]}" # or until a signal comes
  running=()
  for child in "${children[@]}"; do
    if kill -0 "$child" 2>/dev/null; then
      running+=("$child")
      continue
    fi
    wait "$child"
    code=$?
    if [[ $code -ne 0 && ($status -eq 0 || $status -eq 75) ]]; then
      status=$code
    fi
  done
  children=("${running[@]}")
  if [[ $status -ne 0 && $status -ne 75 && ${#children[@]} -gt 0 ]]; then
    kill -KILL "${children[@]}" # they would wait for ever for the one that failed
  fi
done
exit "$status"
