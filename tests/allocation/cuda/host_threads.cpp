// CUDA's threads on a processor.
//
// Every thread of a block is a fiber. A fiber runs until it waits at a barrier, exchanges values with its warp, or meets
// an atomic operation; which one goes on is drawn from a seed, and so is the order of blocks. Shared memory keeps what the
// last block left there. A barrier that not all threads reach ends the run with an error. Blocks run one after another:
// what depends on two of them at work at once shows on a GPU, or to the watch, which asks what orders two accesses.
#include "watch.h"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <numeric>
#include <vector>

namespace host {

Index thread_index, block_index, grid_size;

const unsigned int WARP = 32;
const size_t STACK = 1 << 16;

struct Gate {
    std::vector<unsigned int> waiting;
};
struct Fiber {
    ucontext_t start;
    jmp_buf place;
    std::vector<char> stack;
    bool started, done;
};

static std::vector<Fiber> fibers;
static std::vector<unsigned int> ready;
static jmp_buf scheduler, end_of_run;
static Gate block_gate, warp_gates[32];
static std::vector<unsigned long long> offered;
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
    const unsigned int self = thread_index.x;
    if (_setjmp(fibers[self].place) == 0) _longjmp(scheduler, 1);
    thread_index.x = self;
}

static void wait_at(Gate &gate, size_t threads) {
    if (gate.waiting.size() + 1 < threads) {
        gate.waiting.push_back(thread_index.x);
        leave();
    } else {
        ready.insert(ready.end(), gate.waiting.begin(), gate.waiting.end());
        gate.waiting.clear();
    }
}

void wait_for_block() {
    watch::barrier();
    wait_at(block_gate, fibers.size());
}

void fence() { watch::fence(); }

unsigned long long exchanged(unsigned long long value, unsigned int source) {
    Gate &gate = warp_gates[thread_index.x / WARP];
    offered[thread_index.x] = value;
    wait_at(gate, WARP);
    const unsigned long long other = offered[source];
    wait_at(gate, WARP);
    return other;
}

void before_atomic(void *address, size_t size, Kind kind) {
    if (draw() % 4 == 0) {
        ready.push_back(thread_index.x);
        leave();
    }
    watch::access(address, size, kind, true);
}

void end_run() { _longjmp(end_of_run, 1); }

bool on_own_stack(uintptr_t address) {
    const std::vector<char> &stack = fibers[thread_index.x].stack;
    return address - (uintptr_t)stack.data() < stack.size();
}

static void run_fiber() {
    const long long *a = arguments;
    // arguments are pointers and 64-bit integers, which calling conventions treat alike; those past the last are ignored
    kernel(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]);
    fibers[thread_index.x].done = true;
    _longjmp(scheduler, 1);
}

static bool run_block() {
    ready.clear();
    block_gate.waiting.clear();
    for (Gate &gate : warp_gates) gate.waiting.clear();
    for (size_t thread = 0; thread < fibers.size(); ++thread) {
        fibers[thread].started = fibers[thread].done = false;
        ready.push_back(thread);
    }
    while (!ready.empty()) {
        std::swap(ready[draw() % ready.size()], ready.back());
        thread_index.x = ready.back();
        ready.pop_back();
        Fiber &fiber = fibers[thread_index.x];
        if (_setjmp(scheduler) != 0) continue;
        if (fiber.started) _longjmp(fiber.place, 1);
        fiber.started = true;
        getcontext(&fiber.start);
        fiber.stack.resize(STACK);
        fiber.start.uc_stack.ss_sp = fiber.stack.data(), fiber.start.uc_stack.ss_size = STACK;
        makecontext(&fiber.start, run_fiber, 0);
        setcontext(&fiber.start);
    }
    return std::all_of(fibers.begin(), fibers.end(), [](const Fiber &fiber) { return fiber.done; });
}

}  // namespace host

// Run the blocks of a kernel from `first` on, until the watch complains; false if threads waited at different barriers.
extern "C" bool run_kernel(
    void *kernel, unsigned int threads, unsigned int first, unsigned int blocks, const long long *arguments,
    unsigned long long seed
) {
    using namespace host;
    fibers.resize(threads), offered.resize(threads);
    host::kernel = (Kernel)kernel, host::arguments = arguments, state = 2 * seed + 1;
    for (int i = 0; i < 8; ++i) draw();
    std::vector<unsigned int> order(blocks - first);
    std::iota(order.begin(), order.end(), first);
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[draw() % i]);
    grid_size.x = blocks;
    if (_setjmp(end_of_run) != 0) return true;
    for (unsigned int block : order) {
        block_index.x = block;
        watch::begin_block(threads);
        if (!run_block()) return false;
    }
    return true;
}
