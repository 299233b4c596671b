// Lower ends: a value per group that the entries which matter reach, and few others.

// Keys of a sample of the matrix. Steps of the golden ratio visit it evenly and share no period with its rows. A thread
// writes its own key.
extern "C" __global__ void sample(const Bits *scores, Position size, Position count, Key *keys) {
    const Position i = (Position)blockIdx.x * THREADS + threadIdx.x;
    if (i < count) keys[i] = key_of(scores[__umul64hi((Count)i * 0x9E3779B97F4A7C15ull, (Count)size)]);
}

// Maxima of groups of columns: group g of a row holds the columns g, g + groups, ...; one block per row.
// A group is one thread's, and so is its maximum.
extern "C" __global__ void row_maxima(const Bits *scores, Position columns, Position groups, Key *maxima) {
    const Bits *row = scores + blockIdx.x * columns;
    for (Position group = threadIdx.x; group < groups; group += THREADS) {
        Key best = 0;
#pragma unroll 8
        for (Position column = group; column < columns; column += groups) {
            const Key key = key_of(row[column]);
            best = key > best ? key : best;
        }
        maxima[blockIdx.x * groups + group] = best;
    }
}

// Maxima of groups of rows, 32 columns by 32 groups to a block; written column by column.
// A warp writes its groups' column of the corner; after the barrier another reads across, and writes maxima of its own.
extern "C" __global__ void column_maxima(
    const Bits *scores, Position rows, Position columns, Position groups, Key *maxima
) {
    __shared__ Key corner[32][33];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const Position across = (columns + 31) / 32;
    const Position first_column = blockIdx.x % across * 32, first_group = blockIdx.x / across * 32;
    for (int g = warp; g < 32; g += THREADS / 32) {
        const Position column = first_column + lane, group = first_group + g;
        Key best = 0;
        if (column < columns && group < groups) {
#pragma unroll 8
            for (Position row = group; row < rows; row += groups) {
                const Key key = key_of(scores[row * columns + column]);
                best = key > best ? key : best;
            }
        }
        corner[lane][g] = best;
    }
    __syncthreads();
    for (int c = warp; c < 32; c += THREADS / 32)
        if (first_column + c < columns && first_group + lane < groups)
            maxima[(first_column + c) * groups + first_group + lane] = corner[c][lane];
}

// The wanted-th largest of each line's keys, at least `least`; one block per line.
//
// At least as many entries reach the wanted-th largest of the maxima of groups. Where more than `most` are wanted the
// line survives nowhere, and is ranked among its scores instead of a list. The first thread writes what `rank_of` returns.
extern "C" __global__ void bracket(
    const Key *keys, Position size, const Position *wanted, Position most, Position least, Key *lower
) {
    const Line line = {keys + blockIdx.x * size, 0, 0, 0, 0, size, 0};
    const Position want = wanted[blockIdx.x];
    const Rank rank = rank_of(line, want, 0);
    if (threadIdx.x == 0)
        lower[blockIdx.x] = want > most ? NO_KEY : rank.price > (Key)least ? rank.price : (Key)least;
}

// Keys of the largest scores that do not exceed what is expected of a line, at least `least`: lower ends from a similar
// problem, for which nothing is read. NaN is expected of no line: it ends at `least`. A thread
// writes its own key.
extern "C" __global__ void expect(const double *expected, Position lines, Position least, Key *lower) {
    const Position line = (Position)blockIdx.x * THREADS + threadIdx.x;
    if (line >= lines) return;
    Key below = (Key)least, above = SIGN | (SIGN - 1);
    while (above - below > 1) {
        const Key middle = below + (above - below) / 2;
        union {
            Count bits;
            double value;
        } score;
        score.bits = score_of(middle);
        if (score.value <= expected[line])
            below = middle;
        else
            above = middle;
    }
    lower[line] = below;
}
