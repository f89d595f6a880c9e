#!/usr/bin/env bash
# Memory errors (memcheck) and shared-memory races (racecheck) in a small set of kernel calls. Says so and ends with 0
# where the tool or a GPU is missing; ends with 1 where it found something.
#   benchmarks/compute_sanitizer.sh [seconds per tool, default 240]
set -uo pipefail
cd "$(dirname "$0")/.."
limit=${1:-240}

if ! command -v compute-sanitizer >/dev/null; then
  echo "compute-sanitizer is not installed here (it comes with the CUDA toolkit): nothing was checked"
  exit 0
fi
if ! python -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then
  echo "torch sees no GPU here: nothing was checked"
  exit 0
fi

# torch's cache hands out pieces of large blocks, inside which a wild access looks legal
export PYTORCH_NO_CUDA_MEMORY_CACHING=1
worst=0
for tool in memcheck racecheck; do
  echo "== $tool"
  timeout "$limit" compute-sanitizer --tool "$tool" --error-exitcode 99 --print-limit 20 \
    python -m benchmarks.sanitize --dtypes bfloat16
  status=$?
  case $status in
    0) echo "$tool: clean" ;;
    124) echo "$tool: not finished within $limit s, no verdict" ;;
    *) echo "$tool: status $status"; worst=1 ;;
  esac
done
exit $worst
