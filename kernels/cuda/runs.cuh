// Tokens of a batch as layers see them that remember all of a sequence together: such a layer goes through the tokens of a
// sequence in order, and its memory has a place for each sequence.
#pragma once
#include "q8.cuh"

// Run i is the tokens starts[i] to starts[i + 1], which follow each other in one sequence.
struct Runs {
    const u32* starts;                   // (runs + 1)
    const u32 *positions, *sequences;    // of each token
};

struct Run {
    u32 start, end;
    u32 sequence;
    bool continues;  // whether the sequence has tokens before it
};

// Run blockIdx.y; nothing may be read of one without tokens.
__device__ __forceinline__ Run this_run(const Runs& runs) {
    Run run = {runs.starts[blockIdx.y], runs.starts[blockIdx.y + 1], 0, false};
    if (run.start < run.end) run.sequence = runs.sequences[run.start], run.continues = runs.positions[run.start] > 0;
    return run;
}

// A gate's logarithm of 1 + e^x; of large numbers nothing is left of the logarithm.
__device__ __forceinline__ float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
