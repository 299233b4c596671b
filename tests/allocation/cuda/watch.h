// What the watch is told while kernels run.
#pragma once
#include "cuda_on_host.h"
#undef threadIdx
#undef blockIdx
#undef gridDim

namespace host {
bool on_own_stack(uintptr_t address);
void end_run();
}
namespace watch {
void begin_block(size_t threads);
void barrier();
void fence();
void access(const void *address, size_t size, host::Kind kind, bool is_atomic = false);
}  // namespace watch
