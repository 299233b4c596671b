// CUDA's language on a processor: enough of it to compile the kernels' own source in a test. `host_threads.cpp` runs it.
#pragma once
#include <cstddef>
#include <cstdint>

#define __global__
#define __device__ static  // a library of its own for every number type: no symbol is shared
#define __shared__ static __attribute__((section("shared_memory")))
// What stands for hardware is not watched itself, where the compiler reports every access (`watch.cpp`).
#define HARDWARE __attribute__((no_sanitize_thread)) static inline

struct alignas(16) uint4 {
    unsigned int x, y, z, w;
};

namespace host {

struct Index {
    unsigned int x;
};
extern Index thread_index, block_index, grid_size;

HARDWARE Index index_of(const Index &index) { return index; }

enum Kind { READ, WRITE, ATOMIC };
void wait_for_block();
void fence();
unsigned long long exchanged(unsigned long long value, unsigned int source);
void before_atomic(void *address, size_t size, Kind kind);

}  // namespace host

#define threadIdx host::index_of(host::thread_index)
#define blockIdx host::index_of(host::block_index)
#define gridDim host::index_of(host::grid_size)

HARDWARE void __syncthreads() { host::wait_for_block(); }
HARDWARE void __threadfence() { host::fence(); }

template <typename T>
HARDWARE T __shfl_up_sync(unsigned int, T value, unsigned int delta) {
    const unsigned int self = threadIdx.x;
    return (T)host::exchanged(value, self % 32 >= delta ? self - delta : self);
}

template <typename T>
HARDWARE T replaced(T *address, T value) {
    const T before = *address;
    *address = value;
    return before;
}
template <typename T>
HARDWARE T atomicAdd(T *address, T value) {
    host::before_atomic(address, sizeof(T), host::ATOMIC);
    return replaced(address, (T)(*address + value));
}
template <typename T>
HARDWARE T atomicOr(T *address, T value) {
    host::before_atomic(address, sizeof(T), host::ATOMIC);
    return replaced(address, (T)(*address | value));
}
template <typename T>
HARDWARE T atomicMax(T *address, T value) {
    host::before_atomic(address, sizeof(T), host::ATOMIC);
    return replaced(address, *address > value ? *address : value);
}
template <typename T>
HARDWARE T atomicMin(T *address, T value) {
    host::before_atomic(address, sizeof(T), host::ATOMIC);
    return replaced(address, *address < value ? *address : value);
}
// What empties a cell must come after all that was added to it: an order is asked of it as of a plain write.
template <typename T>
HARDWARE T atomicExch(T *address, T value) {
    host::before_atomic(address, sizeof(T), host::WRITE);
    return replaced(address, value);
}
HARDWARE int __popc(unsigned int word) { return __builtin_popcount(word); }
HARDWARE int __ffs(unsigned int word) { return __builtin_ffs((int)word); }
HARDWARE unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
