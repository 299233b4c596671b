// From a bit per entry to ascending positions. A thread has WORDS words of 32 bits, side by side.
#define WORDS 8

__device__ inline Position first_word() {
    return ((Position)blockIdx.x * THREADS + threadIdx.x) * WORDS;
}

__device__ inline Count count_words(const unsigned int *taken, Position words) {
    Count count = 0;
    for (Position w = first_word(); w < first_word() + WORDS && w < words; ++w) count += __popc(taken[w]);
    return count;
}

// Bits set in each block's part, written by its first thread.
extern "C" __global__ void count_taken(const unsigned int *taken, Position words, Count *counts) {
    Count total;
    running_sum(count_words(taken, words), total);
    if (threadIdx.x == 0) counts[blockIdx.x] = total;
}

// Each block's count becomes the sum of those before it; one block, a run of counts to a thread, which it alone touches.
extern "C" __global__ void sum_counts(Count *counts, Position size, Count *total) {
    const Position share = (size + THREADS - 1) / THREADS;
    const Position start = threadIdx.x * share, stop = start + share < size ? start + share : size;
    Count own = 0, all;
    for (Position i = start; i < stop; ++i) own += counts[i];
    Count before = running_sum(own, all) - own;
    for (Position i = start; i < stop; ++i) {
        const Count count = counts[i];
        counts[i] = before;
        before += count;
    }
    if (threadIdx.x == 0) *total = all;
}

// Positions of the bits, ascending. The sums before a thread's words are the slots of its own.
extern "C" __global__ void write_positions(
    const unsigned int *taken, Position words, const Count *starts, Position *positions
) {
    const Count own = count_words(taken, words);
    Count total;
    Count slot = starts[blockIdx.x] + running_sum(own, total) - own;
    for (Position w = first_word(); w < first_word() + WORDS && w < words; ++w)
        for (unsigned int word = taken[w]; word; word &= word - 1) positions[slot++] = w * 32 + __ffs(word) - 1;
}
