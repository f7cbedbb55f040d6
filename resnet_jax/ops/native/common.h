// What the compiled operations have in common: vectors of the processor, memory of a thread, and a loop over threads.
//
// Every .cc file here is compiled by itself, beside the others (build.py). The headers of XLA are large: only those that
// have functions XLA calls include them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

namespace xla::ffi {
class ThreadPool;
}

namespace resnet_jax {

namespace ffi = xla::ffi;

using Index = int64_t;

// Floats in a register.
#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
typedef float Vec __attribute__((vector_size(LANES * sizeof(float))));
typedef float VecU __attribute__((vector_size(LANES * sizeof(float)), aligned(4)));

inline Vec load(const float* p) { return *reinterpret_cast<const VecU*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<VecU*>(p) = v; }

inline Vec load_some(const float* p, Index count) {
  if (count >= LANES) return load(p);
  Vec v = {};
  if (count > 0) std::memcpy(&v, p, count * sizeof(float));
  return v;
}

inline void store_some(float* p, Vec v, Index count) {
  if (count >= LANES) return store(p, v);
  if (count > 0) std::memcpy(p, &v, count * sizeof(float));
}

inline Index ceil_div(Index a, Index b) { return (a + b - 1) / b; }

// Pieces of an array that will be needed soon, fetched into the second-level cache in steps.
struct Ahead {
  const float* at;
  Index pieces, stride, floats;

  void fetch(Index count) {
    for (; count > 0 && pieces > 0; --count, --pieces, at += stride)
      for (Index i = 0; i < floats; i += 16) __builtin_prefetch(at + i, 0, 2);
  }
};

// Memory of this thread that is kept from call to call, so that its pages are not given back and cleared again each
// time. What the task of a loop writes is LOCAL; what the tasks of all threads read or fill is SHARED, of the caller, and so
// is a TRANSPOSED kernel, which must not lie where a product packs it.
enum Purpose { LOCAL, SHARED, TRANSPOSED, PURPOSES };

inline float* scratch(Purpose purpose, Index floats) {
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  thread_local std::unique_ptr<float, Free> memory[PURPOSES];
  thread_local Index size[PURPOSES] = {};
  if (size[purpose] < floats) {
    size[purpose] = ceil_div(floats, 1024) * 1024;
    memory[purpose].reset();
    memory[purpose].reset(static_cast<float*>(std::aligned_alloc(64, size[purpose] * sizeof(float))));
    if (!memory[purpose]) throw std::bad_alloc();
  }
  return memory[purpose].get();
}

// Runs task(context, 0) .. task(context, count - 1) on the caller and on whatever threads of XLA's pool come free in
// time. The caller never waits for a thread that has not begun, so any number of these may run in one pool at once.
void run_tasks(ffi::ThreadPool& pool, Index count, void (*task)(const void*, Index), const void* context);

// The same for task(0) .. task(count - 1).
template <typename Task>
void parallel_for(ffi::ThreadPool& pool, Index count, const Task& task) {
  run_tasks(pool, count, [](const void* each, Index i) { (*static_cast<const Task*>(each))(i); }, &task);
}

}  // namespace resnet_jax
