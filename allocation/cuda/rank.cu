// The price of a group: its cap-th largest entry, found digit by digit, ties by the smaller position.
//
// Entries with a key above the price are taken, and those equal to it up to a position, the limit. So the answer does
// not depend on the order in which entries are listed or counted.

struct Rank {
    Key price;
    Position limit;
    Count wanted;  // entries still to be taken among those that agree with price and limit so far
    Count tied;    // how many agree
};

// The entries of one group from `lower` upwards: a list of survivors, or the scores themselves.
struct Line {
    const Key *keys;            // a list, or null
    const Position *positions;  // of the list; null where nobody asks
    const Bits *scores;
    Position first, step, size;
    Key lower;
};

__device__ inline Position position_of(const Line &line, Position i) {
    return line.positions ? line.positions[i] : line.first + i * line.step;
}

__device__ inline Key key_of(const Line &line, Position i) {
    return line.keys ? line.keys[i] : key_of(line.scores[line.first + i * line.step]);
}

// Whether a list holds all that matters: it did not overflow, and it holds one more than is wanted or all there is.
__device__ inline bool is_complete(Count held, Count room, Count cap, Key lower, Key least) {
    return held <= room && (held > cap || lower <= least);
}

__device__ inline bool is_settled(const Rank &rank, int digit) {
    return digit > 0 && (rank.wanted == 0 || (digit >= KEY_DIGITS && rank.wanted == rank.tied));
}

// Where an entry falls among the values of a digit, the preferred ones highest; -1 if it disagrees with the rank so far.
__device__ inline int bin_of(const Rank &rank, Key key, Position position, int digit, int digits) {
    if (digit < KEY_DIGITS) {
        const int shift = DIGIT * (KEY_DIGITS - 1 - digit);
        const bool agrees = key >> shift >> DIGIT == rank.price >> shift >> DIGIT;
        return agrees ? (int)(key >> shift & (THREADS - 1)) : -1;
    }
    const int shift = DIGIT * (digits - 1 - digit);
    const bool agrees = key == rank.price && position >> shift >> DIGIT == rank.limit >> shift >> DIGIT;
    return agrees ? THREADS - 1 - (int)(position >> shift & (THREADS - 1)) : -1;
}

// Neighbours mostly fall into one bin, equal scores all of them: a thread adds up what it meets in a row. Bins get atomic
// sums; the caller empties them before, and reads them after, a barrier.
__device__ inline void count_digits(
    const Line &line, const Rank &rank, int digit, int digits, Position start, Position stride, unsigned int *bins
) {
    int latest = -1;
    unsigned int count = 0;
    for (Position i = start; i < line.size; i += stride) {
        const Key key = key_of(line, i);
        if (key < line.lower) continue;
        const int bin = bin_of(rank, key, digit < KEY_DIGITS ? 0 : position_of(line, i), digit, digits);
        if (bin < 0) continue;
        if (bin != latest && count) {
            atomicAdd(&bins[latest], count);
            count = 0;
        }
        latest = bin;
        ++count;
    }
    if (count) atomicAdd(&bins[latest], count);
}

// Fix one digit of the rank. Each thread brings the count of one bin, the first thread that of the highest. All read the
// rank before the barrier in `running_sum`; after it the one thread writes in whose bin the wanted entry falls.
__device__ inline void descend(Count count, Rank *rank, int digit, int digits) {
    const Count demand = rank->wanted;
    Count total;
    const Count through = running_sum(count, total);
    const Count wanted = demand < total ? demand : total;
    if (wanted == 0) {
        if (threadIdx.x == 0) *rank = {NO_KEY, -1, 0, 0};
    } else if (through >= wanted && through - count < wanted) {
        rank->wanted = wanted - (through - count);
        rank->tied = count;
        if (digit < KEY_DIGITS) {
            rank->price |= (Key)(THREADS - 1 - threadIdx.x) << DIGIT * (KEY_DIGITS - 1 - digit);
            if (digit == KEY_DIGITS - 1 && rank->wanted == count) rank->limit = LAST_POSITION;
        } else {
            const int shift = DIGIT * (digits - 1 - digit);
            rank->limit |= (Position)threadIdx.x << shift;
            if (rank->wanted == count) rank->limit |= ((Position)1 << shift) - 1;
        }
    }
}

// The rank of a line by one block; without position digits the price alone. A thread empties the bin of its own number,
// others add to it after a barrier, and it is read after the next. `descend` writes the rank between barriers.
__device__ inline Rank rank_of(const Line &line, Count wanted, int position_digits) {
    __shared__ unsigned int bins[THREADS];
    __shared__ Rank rank;
    const int digits = KEY_DIGITS + position_digits;
    if (threadIdx.x == 0) rank = {0, 0, wanted, 0};
    for (int digit = 0; digit < digits; ++digit) {
        bins[threadIdx.x] = 0;
        __syncthreads();
        const Rank sofar = rank;
        if (is_settled(sofar, digit)) break;
        count_digits(line, sofar, digit, digits, threadIdx.x, THREADS, bins);
        __syncthreads();
        descend(bins[THREADS - 1 - threadIdx.x], &rank, digit, digits);
    }
    __syncthreads();
    return rank;
}

// Set the bit of every entry that is taken. Returns the best key that is not, 0 if there is none, to the first thread.
// Bits are set by atomic operations, as 32 entries share a word. The best is emptied, raised atomically, and read, each a
// barrier apart.
__device__ inline Key mark(
    const Line &line, const Rank &rank, Position start, Position stride, unsigned int *taken
) {
    __shared__ Key refused;
    if (threadIdx.x == 0) refused = 0;
    __syncthreads();
    Key best = 0;
    for (Position i = start; i < line.size; i += stride) {
        const Key key = key_of(line, i);
        if (key < line.lower || key < best) continue;
        const Position position = position_of(line, i);
        if (key > rank.price || (key == rank.price && position <= rank.limit))
            atomicOr(&taken[position >> 5], 1u << (position & 31));
        else
            best = key;
    }
    if (best) atomicMax(&refused, best);
    __syncthreads();
    return refused;
}
