#!/usr/bin/env bash
# Tries everything that trains or searches on one GPU, and keeps a log of what each step took.
#
#     examples/gpu.sh MODEL SAMPLES TEXT HELDOUT OUT
#
# MODEL: the largest model at hand that fits, such as EleutherAI/pythia-6.9b. SAMPLES: passages that it
# recites. TEXT: other text to train on. HELDOUT: text to measure on. Without arguments, it runs on the
# embedded lab model, which needs no GPU:
#
#     examples/gpu.sh
set -euo pipefail

model=${1:-lab:pythia}
samples=${2:-$model}
text=${3:-$model}
heldout=${4:-$model}
out=${5:-gpu-run}
blocks=${BLOCKS:-last:2}

mkdir "$out"
{
    python -m torch.utils.collect_env 2>/dev/null | grep -E "^(PyTorch|GPU|Nvidia|CUDA runtime)" || true
    nvidia-smi 2>/dev/null || echo "no GPU: all of this runs on the CPU"
} | tee "$out/machine.log"

run() {
    local name=$1
    shift
    echo "== $name: $*"
    local begun=$SECONDS
    "$@" 2>&1 | tee "$out/$name.log"
    echo "== $name took $((SECONDS - begun)) s" | tee -a "$out/times.log"
}

given=(--samples "$samples")
run plan attn-surgery mitigate "$model" "${given[@]}" --heldout "$heldout" --erase --heal "$text" \
    --output "$out/mitigated" --dry-run
run erase attn-surgery erase "$model" --drop-attn "$blocks" "${given[@]}" --text "$text" \
    --output "$out/erased"
run erase-adapters attn-surgery erase "$model" --drop-attn "$blocks" "${given[@]}" --text "$text" \
    --adapters 8 --output "$out/erased-adapters"
run cut attn-surgery export "$model" --drop-attn "$blocks" --output "$out/cut"
run heal attn-surgery heal "$out/cut" --source "$model" "${given[@]}" --text "$text" \
    --output "$out/healed"
for name in erased erased-adapters healed; do
    run "audit-$name" attn-surgery audit "$out/$name" --baseline "$model" "${given[@]}" \
        --heldout "$heldout" --attack any --attack hints:8 --attack relearn --config '{draws: 1}'
    run "verify-$name" attn-surgery verify "$out/$name" --source "$model"
done
run search attn-surgery search "$model" "${given[@]}" --heldout "$heldout" --grain blocks \
    --config '{max-evaluations: 16}' --output "$out/found"
cat "$out/times.log"
