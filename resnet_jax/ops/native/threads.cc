// The loop over the threads of XLA's pool.

#include <atomic>
#include <thread>

#include "common.h"
#include "ffi.h"

namespace resnet_jax {

void run_tasks(ffi::ThreadPool& pool, Index count, void (*task)(const void*, Index), const void* context) {
  struct Shared {
    std::atomic<Index> next{0}, done{0};
    Index count;
    void (*task)(const void*, Index);
    const void* context;
  };
  auto shared = std::make_shared<Shared>();
  shared->count = count, shared->task = task, shared->context = context;
  auto work = [shared] {
    Index finished = 0;
    for (Index i; (i = shared->next.fetch_add(1)) < shared->count; ++finished) shared->task(shared->context, i);
    shared->done.fetch_add(finished);
  };
  Index helpers = std::min<Index>(pool.num_threads(), count) - 1;
  for (Index i = 0; i < helpers; ++i) pool.Schedule([work]() mutable { work(); });
  work();
  while (shared->done.load() < count) std::this_thread::yield();
}

}  // namespace resnet_jax
