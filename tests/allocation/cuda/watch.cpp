// Every access of a kernel's threads: is it inside what the kernel was given, and what orders it and the accesses before?
//
// The compiler calls `__tsan_...` at each access, and `__ubsan_...` where arithmetic leaves its type; both are this file's
// own. Two accesses to a cell, one of them a plain write, or one plain and one atomic, need an order between their threads:
//
//   in a block     a barrier: the earlier was made in an earlier phase of its thread
//   across blocks  a fence after the earlier, an atomic operation, one on the same address by the later block, a fence
//
// As memory models have it, not as this run happened to go: the answer does not depend on the order of threads.
#include "watch.h"

#include <cstdio>
#include <string>
#include <unordered_map>
#include <vector>

extern char __start_shared_memory[], __stop_shared_memory[];

namespace watch {

using host::ATOMIC;
using host::Kind;
using host::READ;

struct Access {
    unsigned int block, thread;
    int phase, fences;  // barriers that the thread had passed, and fences
};
struct Cell {
    Access writer;
    bool is_written = false;
    std::vector<Access> readers, atomics;  // since then, of each block at most two
};
struct Range {
    uintptr_t start, size;
};
// What a block has made visible: of every thread the fences so far, and the phase in which the releasing one had its last.
struct Release {
    std::vector<int> fences;
    int phase;
};
typedef std::unordered_map<unsigned int, Release> Releases;

static bool is_on = false;
static std::string found;
static std::vector<Range> given;
static std::unordered_map<uintptr_t, Cell> cells;
static std::unordered_map<uintptr_t, Releases> released;  // by address, then by block
static Releases met;                                       // by a thread of this block, at an atomic operation
static Access meeting;
static std::vector<Releases> acquired;                     // by each thread of this block, at its fence
static std::vector<int> phases, fences, fence_phases;

// The run ends before the access is made, which might end this process.
static void complain(const std::string &what) {
    const std::string thread = std::to_string(host::thread_index.x), block = std::to_string(host::block_index.x);
    found = what + " by thread " + thread + " of block " + block;
    host::end_run();
}

static bool comes_before(const Access &earlier) {
    const unsigned int self = host::thread_index.x;
    if (earlier.block == host::block_index.x) return earlier.thread == self || earlier.phase < phases[self];
    const auto release = acquired[self].find(earlier.block);
    if (release == acquired[self].end()) return false;
    return earlier.fences < release->second.fences[earlier.thread] || earlier.phase < release->second.phase;
}

static void note(std::vector<Access> &accesses, const Access &now) {
    Access *older = nullptr;
    int of_block = 0;
    for (Access &a : accesses) {
        if (a.block != now.block) continue;
        if (a.thread == now.thread) return void(a = now);
        ++of_block;
        if (older == nullptr || a.phase < older->phase) older = &a;
    }
    if (of_block < 2) accesses.push_back(now);
    else if (older->phase < now.phase) *older = now;
}

static void in_cell(Cell &cell, const Access &now, Kind kind, const char *where) {
    const auto need = [&](const std::vector<Access> &earlier, const char *what) {
        for (const Access &a : earlier)
            if (!comes_before(a)) return complain(std::string("race in ") + where + " memory: after " + what);
    };
    if (cell.is_written && !comes_before(cell.writer)) complain(std::string("race in ") + where + " memory: after a write");
    if (kind != READ) need(cell.readers, "a read");
    if (kind != ATOMIC) need(cell.atomics, "an atomic operation");
    if (kind == READ) return note(cell.readers, now);
    if (kind == ATOMIC) return note(cell.atomics, now);
    cell.writer = now, cell.is_written = true;
    cell.readers.clear(), cell.atomics.clear();
}

void access(const void *place, size_t size, Kind kind, bool is_atomic) {
    const uintptr_t address = (uintptr_t)place;
    if (!is_on || host::on_own_stack(address)) return;
    const uintptr_t shared = (uintptr_t)__start_shared_memory, end = (uintptr_t)__stop_shared_memory;
    bool is_inside = address >= shared && address + size <= end;
    const char *where = is_inside ? "shared" : "global";
    for (const Range &range : given) is_inside |= address >= range.start && address + size <= range.start + range.size;
    if (!is_inside) return complain(kind == READ ? "read beside all arrays" : "write beside all arrays");
    const unsigned int self = host::thread_index.x;
    // what releases is itself made visible
    const bool releases = is_atomic && fences[self] > 0;
    const Access now = {host::block_index.x, self, phases[self], fences[self] - releases};
    // two bytes are the least that kernels read or write of an array; flags lie on their own
    for (uintptr_t cell = address / 2; cell <= (address + size - 1) / 2; ++cell) in_cell(cells[cell], now, kind, where);
    if (!releases) return;
    for (const auto &[block, release] : released[address]) met.insert_or_assign(block, release), meeting = now;
    released[address][now.block] = {fences, fence_phases[self]};
}

void begin_block(size_t threads) {
    if (!is_on) return;
    // shared memory is another one in every block
    for (uintptr_t cell = (uintptr_t)__start_shared_memory / 2; cell < (uintptr_t)__stop_shared_memory / 2; ++cell)
        cells.erase(cell);
    met.clear();
    acquired.assign(threads, {});
    phases.assign(threads, 0), fences.assign(threads, 0), fence_phases.assign(threads, -1);
}

void barrier() {
    if (is_on) ++phases[host::thread_index.x];
}

void fence() {
    if (!is_on) return;
    const unsigned int self = host::thread_index.x;
    ++fences[self], fence_phases[self] = phases[self];
    if (!met.empty() && comes_before(meeting)) acquired[self] = met;
}

static void misuse(const void *place, const char *what) {
    struct Place {
        const char *file;
        unsigned int line, column;
    } at = *(const Place *)place;
    complain(std::string(what) + " in line " + std::to_string(at.line));
}

}  // namespace watch

// Watch the kernels from here on, which may use these arrays.
extern "C" void watch_arrays(const long long *starts, const long long *sizes, int count) {
    watch::is_on = true, watch::found.clear(), watch::cells.clear(), watch::released.clear(), watch::given.clear();
    for (int i = 0; i < count; ++i) watch::given.push_back({(uintptr_t)starts[i], (uintptr_t)sizes[i]});
}
extern "C" const char *what_was_found() { return watch::found.c_str(); }

#define SIZED(n)                                                                          \
    extern "C" void __tsan_read##n(void *p) { watch::access(p, n, host::READ); }           \
    extern "C" void __tsan_write##n(void *p) { watch::access(p, n, host::WRITE); }         \
    extern "C" void __tsan_unaligned_read##n(void *p) { watch::access(p, n, host::READ); } \
    extern "C" void __tsan_unaligned_write##n(void *p) { watch::access(p, n, host::WRITE); } \
    /* a volatile read asks for no order, and is given none: whatever it finds must do */  \
    extern "C" void __tsan_volatile_read##n(void *p) { watch::access(p, n, host::ATOMIC); }
SIZED(1) SIZED(2) SIZED(4) SIZED(8) SIZED(16)
extern "C" void __tsan_read_range(void *p, size_t n) { watch::access(p, n, host::READ); }
extern "C" void __tsan_write_range(void *p, size_t n) { watch::access(p, n, host::WRITE); }
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void *) {}
extern "C" void __tsan_func_exit() {}

#define MISUSE(name, what) \
    extern "C" void __ubsan_handle_##name(void *place) { watch::misuse(place, what); }
MISUSE(add_overflow, "overflow of a sum")
MISUSE(sub_overflow, "overflow of a difference")
MISUSE(mul_overflow, "overflow of a product")
MISUSE(negate_overflow, "overflow of a sign")
MISUSE(divrem_overflow, "division that has no answer")
MISUSE(shift_out_of_bounds, "shift beyond a word")
MISUSE(out_of_bounds, "index beyond an array")
MISUSE(type_mismatch_v1, "misaligned or null pointer")
MISUSE(pointer_overflow, "overflow of a pointer")
MISUSE(load_invalid_value, "value that its type lacks")
MISUSE(builtin_unreachable, "unreachable")
