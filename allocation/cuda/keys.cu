// Scores as integers that compare as the scores do. Compiled once per number type:
//
//   BITS           width of a score: 16, 32 or 64
//   INFINITY_BITS  the bit pattern of +inf; left out for signed integers
//   DIGIT          bits of a radix digit; a block has one thread per value of a digit
//
// Kernels take pointers and 64-bit integers only, so that one launcher serves all of them.
//
// Above each kernel stands who writes what, and what orders it: why no two threads race. Two orders are used, a barrier
// within a block and the end of a launch; `narrow` alone needs a third. Tests watch every access (tests/allocation/cuda).

#if BITS == 16
typedef unsigned short Bits;
typedef unsigned int Key;
#elif BITS == 32
typedef unsigned int Bits;
typedef unsigned int Key;
#else
typedef unsigned long long Bits;
typedef unsigned long long Key;
#endif
typedef unsigned long long Count;
typedef long long Position;

#define THREADS (1 << DIGIT)
#define KEY_DIGITS ((BITS + DIGIT - 1) / DIGIT)
#define SIGN ((Key)1 << (BITS - 1))
#define SMALLEST_POSITIVE (SIGN + 1)
#define NO_KEY (~(Key)0)
#define LAST_POSITION 0x7fffffffffffffffLL
#define ALL_LANES 0xffffffffu

// Entries that a thread reads at once, and reads in all, of a tile.
#define RUN 8
#define ITEMS 32
#define TILE ((Position)THREADS * ITEMS)

// The key of 0 is SIGN; larger keys are positive scores. -0.0 counts as 0.0.
__device__ inline Key key_of(Bits bits) {
#ifdef INFINITY_BITS
    Key key = bits == SIGN ? 0 : bits;
    return key & SIGN ? key ^ (SIGN | (SIGN - 1)) : key | SIGN;
#else
    return (Key)bits ^ SIGN;
#endif
}

union Run {
    uint4 vectors[RUN * BITS / 128];
    Bits entries[RUN];
};

// The entries from `at` on, at most RUN of them, by 16-byte loads where the matrix allows; returns how many there are.
__device__ inline int read_run(const Bits *scores, Position at, Position size, Run &run) {
    if (at + RUN <= size && ((Count)(scores + at) & 15) == 0) {
#pragma unroll
        for (int v = 0; v < RUN * BITS / 128; ++v) run.vectors[v] = ((const uint4 *)(scores + at))[v];
        return RUN;
    }
    int present = 0;
#pragma unroll
    for (int e = 0; e < RUN; ++e) {
        bool inside = at + e < size;
        run.entries[e] = inside ? scores[at + e] : 0;
        present += inside;
    }
    return present;
}

// The first entry of one of this thread's ITEMS / RUN runs; the runs of a block's threads lie side by side.
__device__ inline Position run_start(int run) {
    return blockIdx.x * TILE + ((Position)run * THREADS + threadIdx.x) * RUN;
}

// Sum of `value` over this thread and those before it in the block; `total` is that of all.
// The last lane of each warp writes its sum, and after the barrier all threads read them. Between two calls of a kernel
// lies a barrier of its own.
__device__ inline Count running_sum(Count value, Count &total) {
    __shared__ Count sums[32];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    for (int step = 1; step < 32; step *= 2) {
        Count before = __shfl_up_sync(ALL_LANES, value, step);
        if (lane >= step) value += before;
    }
    if (lane == 31) sums[warp] = value;
    __syncthreads();
    total = 0;
    for (int w = 0; w < THREADS / 32; ++w) {
        if (w == warp) value += total;
        total += sums[w];
    }
    return value;
}

// What is wrong with a matrix: NaN entries, the first of them, +inf entries, the first of them.
// Written by atomic sums and minima alone, whose order does not matter.
extern "C" __global__ void inspect(const Bits *scores, Position size, Count *found) {
#ifdef INFINITY_BITS
    for (int r = 0; r < ITEMS / RUN; ++r) {
        Run run;
        const int present = read_run(scores, run_start(r), size, run);
        for (int e = 0; e < present; ++e) {
            const bool nan = (run.entries[e] & (SIGN - 1)) > INFINITY_BITS;
            if (!nan && run.entries[e] != INFINITY_BITS) continue;
            atomicAdd(&found[nan ? 0 : 2], (Count)1);
            atomicMin(&found[nan ? 1 : 3], (Count)(run_start(r) + e));
        }
    }
#endif
}

// The score that a key stands for, as the bits of a float64.
__device__ inline Count score_of(Key key) {
    union {
        double value;
        Count bits;
    } score;
#ifndef INFINITY_BITS
    score.value = (double)(Position)(key ^ SIGN);
#else
    const Key pattern = key & SIGN ? key ^ SIGN : ~key & (SIGN | (SIGN - 1));
#if BITS == 64
    score.bits = pattern;
#elif INFINITY_BITS == 0x7C00  // float16: a larger exponent and mantissa, subnormal numbers by a product
    const Count exponent = pattern >> 10 & 31, mantissa = pattern & 1023;
    score.bits = (exponent + (exponent < 31 ? 1008 : 2016)) << 52 | mantissa << 42;
    if (exponent == 0) score.value = mantissa * 0x1p-24;
    score.bits |= (Count)(pattern >> 15) << 63;
#else  // float32, and bfloat16, which is its upper half
    union {
        unsigned int bits;
        float value;
    } single;
    single.bits = (unsigned int)pattern << (32 - BITS);
    score.value = single.value;
#endif
#endif
    return score.bits;
}

// Scores of keys; `absent`, the bits of a float64, where a key is 0. A thread writes its own score.
extern "C" __global__ void scores_of_keys(const Key *keys, Position size, Count absent, Count *scores) {
    const Position i = (Position)blockIdx.x * THREADS + threadIdx.x;
    if (i < size) scores[i] = keys[i] ? score_of(keys[i]) : absent;
}
