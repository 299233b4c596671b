// One read of the scores: what reaches the lower end of its group survives, with key and position, in any order.

// A bit for each of this thread's entries in its tile that survive; `lower` is one key, or one per row or column.
template <int AXIS>
__device__ inline unsigned int surviving(const Bits *scores, Position size, Position columns, const Key *lower) {
    unsigned int mask = 0;
#pragma unroll
    for (int r = 0; r < ITEMS / RUN; ++r) {
        const Position at = run_start(r);
        Run run;
        const int present = read_run(scores, at, size, run);
        Position row = 0, column = 0;
        if (AXIS >= 0) {
            row = at / columns;
            column = at - row * columns;
        }
#pragma unroll
        for (int e = 0; e < RUN; ++e) {
            if (e < present) {
                const Key end = lower[AXIS < 0 ? 0 : AXIS == 0 ? row : column];
                mask |= (unsigned int)(key_of(run.entries[e]) >= end) << (r * RUN + e);
            }
            if (AXIS >= 0 && ++column == columns) {
                column = 0;
                ++row;
            }
        }
    }
    return mask;
}

// Position of the lowest entry of a mask.
__device__ inline Position lowest(unsigned int mask) {
    const int item = __ffs(mask) - 1;
    return run_start(item / RUN) + item % RUN;
}

// The matrix as one group: one list with `room` entries, a block's survivors side by side.
// One atomic sum gives a block its part of the list, which all its threads read after a barrier; `running_sum` gives each
// thread its own slots there. Slots past the room are not written, though they are counted.
extern "C" __global__ void compact_whole(
    const Bits *scores, Position size, const Key *lower, Position room, Count *held, Key *keys, Position *positions
) {
    __shared__ Count base;
    unsigned int mask = surviving<-1>(scores, size, 1, lower);
    Count total;
    Count slot = running_sum(__popc(mask), total) - __popc(mask);
    if (total == 0) return;
    if (threadIdx.x == 0) base = atomicAdd(held, total);
    __syncthreads();
    for (slot += base; mask && slot < (Count)room; mask &= mask - 1, ++slot) {
        positions[slot] = lowest(mask);
        keys[slot] = key_of(scores[positions[slot]]);
    }
}

// A list per row or column, that of line l from starts[l] to before starts[l + 1].
// An atomic sum gives every survivor a slot of its own. The read before it may find an older count: then a slot is asked
// for in vain, and nothing is written.
template <int AXIS>
__device__ inline void compact_lines(
    const Bits *scores, Position size, Position columns, const Key *lower, const Position *starts, Count *held,
    Key *keys, Position *positions
) {
    unsigned int mask = surviving<AXIS>(scores, size, columns, lower);
    for (; mask; mask &= mask - 1) {
        const Position at = lowest(mask), line = AXIS == 0 ? at / columns : at % columns;
        const Position room = starts[line + 1] - starts[line];
        // a list that has overflowed is read by nobody: that it has is all that matters, not by how much
        if ((Position) * (volatile Count *)&held[line] > room) continue;
        const Position slot = starts[line] + (Position)atomicAdd(&held[line], (Count)1);
        if (slot < starts[line + 1]) {
            positions[slot] = at;
            keys[slot] = key_of(scores[at]);
        }
    }
}

extern "C" __global__ void compact_rows(
    const Bits *scores, Position size, Position columns, const Key *lower, const Position *starts, Count *held,
    Key *keys, Position *positions
) {
    compact_lines<0>(scores, size, columns, lower, starts, held, keys, positions);
}

extern "C" __global__ void compact_columns(
    const Bits *scores, Position size, Position columns, const Key *lower, const Position *starts, Count *held,
    Key *keys, Position *positions
) {
    compact_lines<1>(scores, size, columns, lower, starts, held, keys, positions);
}
