// What reaches the input of a block backwards, in float32: what comes through its skip and through its branch is added,
// its squares are summed, and it is masked by the ReLU before the block, in one pass.
//
// Arrays are dense, (parts, ...); each part has a sum of its own. They are cut into blocks; a block is summed in float32,
// the blocks are put together in float64. The cuts depend on the shapes alone, so that results do not depend on the
// number of threads.

#include "common.h"
#include "ffi.h"

namespace resnet_jax {
namespace {

constexpr Index BLOCK = 8192;  // floats of an array
constexpr Index TASKS = 16;    // enough for some cores, each with some tasks

using Array = ffi::Buffer<ffi::F32>;
using Result = ffi::Result<ffi::Buffer<ffi::F32>>;

// Sums the squares of a, or of out = a + b; what is written is zero where z is not positive. `out` may be `a`.
template <bool BOTH, bool MASKED>
ffi::Error join(ffi::ThreadPool& pool, const Array& a_in, const float* b, const float* z, float* out, float* squares) {
  constexpr int U = 4;  // additions do not wait for each other
  const float* const a = a_in.typed_data();
  const Index parts = a_in.dimensions().front(), size = a_in.element_count() / parts;
  const Index blocks = ceil_div(size, BLOCK), tasks = std::min(blocks, std::max<Index>(1, TASKS / parts));
  double* const partial = reinterpret_cast<double*>(scratch(SHARED, 2 * parts * tasks));
  parallel_for(pool, parts * tasks, [&](Index task) {
    const Index part = task / tasks, number = task % tasks;
    double total = 0;
    for (Index block = number * blocks / tasks; block < (number + 1) * blocks / tasks; ++block) {
      const Index begin = part * size + block * BLOCK, end = std::min(begin + BLOCK, (part + 1) * size);
      Vec sums[U] = {};
      auto add = [&](Index i, Index count, Vec& sum) {
        Vec value = load_some(a + i, count);
        if (BOTH) value += load_some(b + i, count);
        sum += value * value;
        if (MASKED) value = load_some(z + i, count) > 0.0f ? value : Vec{};
        if (BOTH) store_some(out + i, value, count);
      };
      Index i = begin;
      for (; i + U * LANES <= end; i += U * LANES)
#pragma GCC unroll 4
        for (int u = 0; u < U; ++u) add(i + u * LANES, LANES, sums[u]);
      for (; i < end; i += LANES) add(i, end - i, sums[0]);
      const Vec sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
      for (int lane = 0; lane < LANES; ++lane) total += sum[lane];
    }
    partial[task] = total;
  });
  for (Index part = 0; part < parts; ++part) {
    double total = 0;
    for (Index task = part * tasks; task < (part + 1) * tasks; ++task) total += partial[task];
    squares[part] = total;
  }
  return ffi::Error::Success();
}

ffi::Error Squares(ffi::ThreadPool pool, Array g, Result squares) {
  return join<false, false>(pool, g, nullptr, nullptr, nullptr, squares->typed_data());
}

ffi::Error Join(ffi::ThreadPool pool, Array a, Array b, Result out, Result squares) {
  return join<true, false>(pool, a, b.typed_data(), nullptr, out->typed_data(), squares->typed_data());
}

ffi::Error JoinMasked(ffi::ThreadPool pool, Array a, Array b, Array z, Result out, Result squares) {
  return join<true, true>(pool, a, b.typed_data(), z.typed_data(), out->typed_data(), squares->typed_data());
}

}  // namespace
}  // namespace resnet_jax

using resnet_jax::Array;
using xla::ffi::Ffi;
using xla::ffi::ThreadPool;

XLA_FFI_DEFINE_HANDLER_SYMBOL(probe_squares, resnet_jax::Squares, Ffi::Bind().Ctx<ThreadPool>().Arg<Array>().Ret<Array>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    probe_join, resnet_jax::Join, Ffi::Bind().Ctx<ThreadPool>().Arg<Array>().Arg<Array>().Ret<Array>().Ret<Array>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    probe_join_masked, resnet_jax::JoinMasked,
    Ffi::Bind().Ctx<ThreadPool>().Arg<Array>().Arg<Array>().Arg<Array>().Ret<Array>().Ret<Array>());
