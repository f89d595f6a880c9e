#!/usr/bin/env bash
# corehead_hf under the real lmms-eval: makes a virtual environment (136 packages), then runs offline on the tiny models.
#   run.sh [VENV [--examples 210]]
# A VENV that has lmms-eval is used as it is, and corehead_hf is installed into it; else one is made there, or for this run.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=1

venv=${1:-$work/venv}
if [ ! -x "$venv/bin/lmms-eval" ]; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install lmms-eval==0.7.3
fi
"$venv/bin/pip" install -e "$root[analysis,video]"

export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 HF_HOME="$work/hf" HF_DATASETS_CACHE="$work/hf/datasets"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TRITON_INTERPRET=${TRITON_INTERPRET:-0} TOKENIZERS_PARALLELISM=false
"$venv/bin/python" "$here/prove.py" "$work/run" "${@:2}"
