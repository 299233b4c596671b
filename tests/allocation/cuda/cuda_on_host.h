// CUDA's threads on a processor: enough of the language to run the kernels' own source in a test.
//
// Every thread of a block is a fiber. A fiber runs until it waits at a barrier, exchanges values with its warp, or meets
// an atomic operation; which one goes on is drawn from a seed, and so is the order of blocks. Shared memory keeps what the
// last block left there. A barrier that not all threads reach ends the run with an error.
#pragma once
#include <ucontext.h>

#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

#define __global__
#define __device__
#define __shared__ static

struct alignas(16) uint4 {
    unsigned int x, y, z, w;
};
struct Index {
    unsigned int x;
};
static Index threadIdx, blockIdx, gridDim;

namespace host {

const int THREADS_OF_BLOCK = 1 << DIGIT, WARP = 32;
const size_t STACK = 1 << 16;

struct Gate {
    int arrived = 0;
    unsigned int opened = 0;
};
struct Fiber {
    ucontext_t context;
    std::vector<char> stack;
    Gate *gate = nullptr;
    unsigned int seen = 0;
    bool done = false;
};

static std::vector<Fiber> fibers;
static ucontext_t scheduler;
static Gate block_gate, warp_gates[32];
static unsigned long long exchanged[THREADS_OF_BLOCK];
static uint64_t state;
typedef void (*Kernel)(
    long long, long long, long long, long long, long long, long long, long long, long long, long long, long long,
    long long, long long, long long, long long, long long, long long
);
static Kernel kernel;
static const long long *arguments;

static uint64_t draw() {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state;
}

static void pause_here() {
    const unsigned int self = threadIdx.x;
    swapcontext(&fibers[self].context, &scheduler);
    threadIdx.x = self;
}

static void wait_at(Gate &gate, int threads) {
    Fiber &fiber = fibers[threadIdx.x];
    fiber.gate = &gate, fiber.seen = gate.opened;
    if (++gate.arrived == threads) gate.arrived = 0, ++gate.opened;
    pause_here();
    fiber.gate = nullptr;
}

static void maybe_pause() {
    if (draw() % 4 == 0) pause_here();
}

static void run_fiber() {
    const long long *a = arguments;
    // arguments are pointers and 64-bit integers, which calling conventions treat alike; those beyond the last are ignored
    kernel(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]);
    fibers[threadIdx.x].done = true;
    swapcontext(&fibers[threadIdx.x].context, &scheduler);
}

static bool run_block() {
    for (Fiber &fiber : fibers) {
        getcontext(&fiber.context);
        fiber.stack.resize(STACK);
        fiber.context.uc_stack.ss_sp = fiber.stack.data(), fiber.context.uc_stack.ss_size = STACK;
        fiber.done = false, fiber.gate = nullptr;
        makecontext(&fiber.context, run_fiber, 0);
    }
    for (int left = THREADS_OF_BLOCK; left > 0;) {
        int chosen = draw() % THREADS_OF_BLOCK, tried = 0;
        for (; tried < THREADS_OF_BLOCK; ++tried, chosen = (chosen + 1) % THREADS_OF_BLOCK) {
            const Fiber &fiber = fibers[chosen];
            if (!fiber.done && (!fiber.gate || fiber.gate->opened != fiber.seen)) break;
        }
        if (tried == THREADS_OF_BLOCK) return false;
        threadIdx.x = chosen;
        swapcontext(&scheduler, &fibers[chosen].context);
        left -= fibers[chosen].done;
    }
    return block_gate.arrived == 0;
}

}  // namespace host

// Run every block of a kernel; false if threads waited at different barriers.
extern "C" bool run_kernel(void *kernel, unsigned int blocks, const long long *arguments, unsigned long long seed) {
    host::fibers.resize(host::THREADS_OF_BLOCK);
    host::kernel = (host::Kernel)kernel, host::arguments = arguments, host::state = 2 * seed + 1;
    for (int i = 0; i < 8; ++i) host::draw();
    std::vector<unsigned int> order(blocks);
    std::iota(order.begin(), order.end(), 0u);
    for (unsigned int i = blocks; i > 1; --i) std::swap(order[i - 1], order[host::draw() % i]);
    gridDim.x = blocks;
    for (unsigned int block : order) {
        blockIdx.x = block;
        if (!host::run_block()) return false;
    }
    return true;
}

static inline void __syncthreads() { host::wait_at(host::block_gate, host::THREADS_OF_BLOCK); }
static inline void __threadfence() {}

template <typename T>
static T __shfl_up_sync(unsigned int, T value, int delta) {
    const int self = threadIdx.x, lane = self % host::WARP;
    host::exchanged[self] = value;
    host::wait_at(host::warp_gates[self / host::WARP], host::WARP);
    const T other = (T)host::exchanged[lane >= delta ? self - delta : self];
    host::wait_at(host::warp_gates[self / host::WARP], host::WARP);
    return other;
}

template <typename T>
static T replaced(T *address, T value) {
    const T before = *address;
    *address = value;
    return before;
}
template <typename T>
static T atomicAdd(T *address, T value) {
    host::maybe_pause();
    return replaced(address, (T)(*address + value));
}
template <typename T>
static T atomicOr(T *address, T value) {
    host::maybe_pause();
    return replaced(address, (T)(*address | value));
}
template <typename T>
static T atomicMax(T *address, T value) {
    host::maybe_pause();
    return replaced(address, *address > value ? *address : value);
}
template <typename T>
static T atomicMin(T *address, T value) {
    host::maybe_pause();
    return replaced(address, *address < value ? *address : value);
}
template <typename T>
static T atomicExch(T *address, T value) {
    host::maybe_pause();
    return replaced(address, value);
}
static inline int __popc(unsigned int word) { return __builtin_popcount(word); }
static inline int __ffs(unsigned int word) { return __builtin_ffs((int)word); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
