// Exact selection among the survivors, or among all scores where a list turns out not to hold what matters.
// The choice between the two is made here, on the device: the sequence of launches is always the same.

__device__ inline Line whole_line(
    const Bits *scores, Position size, const Key *keys, const Position *positions, Count held, Position room,
    Position cap, Key lower
) {
    if (is_complete(held, room, cap, lower, SMALLEST_POSITIVE)) return {keys, positions, scores, 0, 1, (Position)held, lower};
    return {0, 0, scores, 0, 1, size, SMALLEST_POSITIVE};
}

// One digit of the rank of the whole matrix, by all blocks; the last of them to end fixes it. `bins` starts at 0.
//
// A block counts in bins of its own, between barriers, and adds them to the bins of all by atomic sums. Then each thread
// makes its sums visible (fence), waits for its block (barrier), and the first counts the block as ended. Who counts last
// has met all others: after a barrier and a fence its threads see every sum, empty the bins for the next digit, and the
// first writes the rank. All others read the rank before they counted themselves, so nobody reads what it overwrites.
extern "C" __global__ void narrow(
    const Bits *scores, Position size, const Key *keys, const Position *positions, const Count *held, Position room,
    const Key *lower, Position cap, Position digit, Position digits, Count *bins, Count *ended, Rank *rank
) {
    __shared__ unsigned int own[THREADS];
    __shared__ Rank next;
    __shared__ bool is_last;
    const Rank sofar = digit == 0 ? Rank{0, 0, (Count)cap, 0} : *rank;
    if (is_settled(sofar, digit)) return;
    own[threadIdx.x] = 0;
    __syncthreads();
    const Line line = whole_line(scores, size, keys, positions, *held, room, cap, *lower);
    const Position start = (Position)blockIdx.x * THREADS + threadIdx.x, stride = (Position)gridDim.x * THREADS;
    count_digits(line, sofar, digit, digits, start, stride, own);
    __syncthreads();
    if (own[threadIdx.x]) atomicAdd(&bins[threadIdx.x], (Count)own[threadIdx.x]);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        is_last = atomicAdd(ended, (Count)1) == gridDim.x - 1;
        next = sofar;
    }
    __syncthreads();
    if (!is_last) return;
    __threadfence();
    descend(atomicExch(&bins[THREADS - 1 - threadIdx.x], (Count)0), &next, digit, digits);
    __syncthreads();
    if (threadIdx.x == 0) {
        *rank = next;
        *ended = 0;
    }
}

// The bits of all that is taken, the key of the last taken, and of the best refused; 0 where there is none.
// Blocks meet in atomic operations only; the last key is written by the first block alone.
extern "C" __global__ void mark_whole(
    const Bits *scores, Position size, const Key *keys, const Position *positions, const Count *held, Position room,
    const Key *lower, Position cap, const Rank *rank, unsigned int *taken, Key *last, Key *refused
) {
    const Line line = whole_line(scores, size, keys, positions, *held, room, cap, *lower);
    const Position start = (Position)blockIdx.x * THREADS + threadIdx.x, stride = (Position)gridDim.x * THREADS;
    const Key best = mark(line, *rank, start, stride, taken);
    if (threadIdx.x != 0) return;
    if (best) atomicMax(refused, best);
    if (blockIdx.x == 0) *last = rank->wanted ? rank->price : 0;
}

// The same for rows (step 1) or columns, one block per line; `least` is the smallest key that may be taken.
// Lines have numbers and lists of their own, and share no more than words of bits, which atomic operations set.
extern "C" __global__ void finish_lines(
    const Bits *scores, Position size, Position step, const Key *keys, const Position *positions, const Count *held,
    const Position *starts, const Key *lower, const Position *caps, Position least, Position digits, unsigned int *taken,
    Key *last, Key *refused
) {
    const Position line_index = blockIdx.x, room = starts[line_index + 1] - starts[line_index], cap = caps[line_index];
    Line line = {0, 0, scores, step == 1 ? line_index * size : line_index, step, size, (Key)least};
    if (is_complete(held[line_index], room, cap, lower[line_index], (Key)least)) {
        const Position first = starts[line_index];
        line = {keys + first, positions + first, scores, 0, 1, (Position)held[line_index], lower[line_index]};
    }
    const Rank rank = rank_of(line, cap, digits - KEY_DIGITS);
    const Key best = mark(line, rank, threadIdx.x, THREADS, taken);
    if (threadIdx.x != 0) return;
    last[line_index] = rank.wanted ? rank.price : 0;
    refused[line_index] = best;
}
