// CUDA's threads on a processor: enough of the language to run the kernels' own source in a test.
//
// Every thread of a block is a fiber. A fiber runs until it waits at a barrier, exchanges values with its warp, or meets
// an atomic operation; which one goes on is drawn from a seed, and so is the order of blocks. Shared memory keeps what the
// last block left there. A barrier that not all threads reach ends the run with an error. Blocks run one after another:
// what depends on two of them at work at once shows on a GPU alone.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

#define __global__
#define __device__ static  // a library of its own for every number type: no symbol is shared
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
    std::vector<int> waiting;
};
struct Fiber {
    ucontext_t start;
    jmp_buf place;
    std::vector<char> stack;
    bool started, done;
};

static std::vector<Fiber> fibers;
static std::vector<int> ready;
static jmp_buf scheduler;
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

static void leave() {
    const unsigned int self = threadIdx.x;
    if (_setjmp(fibers[self].place) == 0) _longjmp(scheduler, 1);
    threadIdx.x = self;
}

static void wait_at(Gate &gate, size_t threads) {
    if (gate.waiting.size() + 1 < threads) {
        gate.waiting.push_back(threadIdx.x);
        leave();
    } else {
        ready.insert(ready.end(), gate.waiting.begin(), gate.waiting.end());
        gate.waiting.clear();
    }
}

static void maybe_pause() {
    if (draw() % 4 != 0) return;
    ready.push_back(threadIdx.x);
    leave();
}

static void run_fiber() {
    const long long *a = arguments;
    // arguments are pointers and 64-bit integers, which calling conventions treat alike; those past the last are ignored
    kernel(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]);
    fibers[threadIdx.x].done = true;
    _longjmp(scheduler, 1);
}

static bool run_block() {
    ready.clear();
    for (int thread = 0; thread < THREADS_OF_BLOCK; ++thread) {
        fibers[thread].started = fibers[thread].done = false;
        ready.push_back(thread);
    }
    while (!ready.empty()) {
        std::swap(ready[draw() % ready.size()], ready.back());
        threadIdx.x = ready.back();
        ready.pop_back();
        Fiber &fiber = fibers[threadIdx.x];
        if (_setjmp(scheduler) != 0) continue;
        if (fiber.started) _longjmp(fiber.place, 1);
        fiber.started = true;
        getcontext(&fiber.start);
        fiber.stack.resize(STACK);
        fiber.start.uc_stack.ss_sp = fiber.stack.data(), fiber.start.uc_stack.ss_size = STACK;
        makecontext(&fiber.start, run_fiber, 0);
        setcontext(&fiber.start);
    }
    for (const Fiber &fiber : fibers)
        if (!fiber.done) return false;
    return true;
}

}  // namespace host

// Run the blocks of a kernel from `first` on; false if threads waited at different barriers.
extern "C" bool run_kernel(
    void *kernel, unsigned int first, unsigned int blocks, const long long *arguments, unsigned long long seed
) {
    host::fibers.resize(host::THREADS_OF_BLOCK);
    host::kernel = (host::Kernel)kernel, host::arguments = arguments, host::state = 2 * seed + 1;
    for (int i = 0; i < 8; ++i) host::draw();
    std::vector<unsigned int> order(blocks - first);
    std::iota(order.begin(), order.end(), first);
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[host::draw() % i]);
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
