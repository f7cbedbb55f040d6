// Maximum over square windows of images (N, H, W, C) in float32, and what its derivatives need: for each window and
// channel the place of the first maximum, found again from the input. The padding is narrower than a window.

#include "common.h"
#include "ffi.h"

namespace resnet_jax {
namespace {

using Array = ffi::Buffer<ffi::F32>;
using Result = ffi::Result<ffi::Buffer<ffi::F32>>;
typedef int32_t Places __attribute__((vector_size(LANES * sizeof(float))));

struct Pool {
  Index n, h, w, c, out_h, out_w, window, stride, padding;

  Pool(ffi::Span<const int64_t> in, Index window, Index stride, Index padding)
      : n(in[0]), h(in[1]), w(in[2]), c(in[3]), window(window), stride(stride), padding(padding) {
    out_h = (h + 2 * padding - window) / stride + 1, out_w = (w + 2 * padding - window) / stride + 1;
  }

  // Calls each(pixel) for the pixels of a window that are not padding, in order.
  template <typename Each>
  void over_window(Index y, Index x, const Each& each) const {
    Index top = y * stride - padding, left = x * stride - padding;
    Index x0 = std::max<Index>(left, 0), x1 = std::min(left + window, w);
    for (Index i = std::max<Index>(top, 0); i < std::min(top + window, h); ++i)
      for (Index j = x0; j < x1; ++j) each(i * w + j);
  }

  // Finds the first maximum of each channel from c0 on; a value that is not a number is one.
  void maximum(const float* image, Index y, Index x, Index c0, Vec& most, Places& places) const {
    bool first = true;
    over_window(y, x, [&](Index pixel) {
      Vec value = load_some(image + pixel * c + c0, c - c0);
      Places wins = first ? Places{} - 1 : Places((value > most) | ((value != value) & (most == most)));
      most = wins ? value : most;
      places = wins ? Places{} + int32_t(pixel) : places;
      first = false;
    });
  }
};

// Rows of the output are independent.
template <typename Write>
void over_rows(ffi::ThreadPool& pool, const Pool& op, const Write& write) {
  parallel_for(pool, op.n * op.out_h, [&](Index task) {
    for (Index x = 0; x < op.out_w; ++x)
      for (Index c = 0; c < op.c; c += LANES) write(task / op.out_h, task % op.out_h, x, c, (task * op.out_w + x) * op.c + c);
  });
}

ffi::Error Maximum(ffi::ThreadPool pool, Array x_in, Index window, Index stride, Index padding, Result out) {
  const Pool op(x_in.dimensions(), window, stride, padding);
  const float* x = x_in.typed_data();
  float* y = out->typed_data();
  over_rows(pool, op, [&](Index image, Index row, Index column, Index c, Index at) {
    Vec most = {};
    Places places = {};
    op.maximum(x + image * op.h * op.w * op.c, row, column, c, most, places);
    store_some(y + at, most, op.c - c);
  });
  return ffi::Error::Success();
}

// The numbers of t at the places of the maxima of x.
ffi::Error Gather(ffi::ThreadPool pool, Array t_in, Array x_in, Index window, Index stride, Index padding, Result out) {
  const Pool op(x_in.dimensions(), window, stride, padding);
  const float *x = x_in.typed_data(), *t = t_in.typed_data();
  float* y = out->typed_data();
  over_rows(pool, op, [&](Index image, Index row, Index column, Index c, Index at) {
    const Index first = image * op.h * op.w * op.c;
    Vec most = {}, found = {};
    Places places = {};
    op.maximum(x + first, row, column, c, most, places);
    op.over_window(row, column, [&](Index pixel) {
      found = places == int32_t(pixel) ? load_some(t + first + pixel * op.c + c, op.c - c) : found;
    });
    store_some(y + at, found, op.c - c);
  });
  return ffi::Error::Success();
}

// The transpose: adds each number of g to the place of the maximum of its window. Windows overlap: a task is an image.
ffi::Error Scatter(ffi::ThreadPool pool, Array g_in, Array x_in, Index window, Index stride, Index padding, Result out) {
  const Pool op(x_in.dimensions(), window, stride, padding);
  const Index image = op.h * op.w * op.c, row = op.w * op.c;
  parallel_for(pool, op.n, [&](Index n) {
    const float *x = x_in.typed_data() + n * image, *g = g_in.typed_data() + n * op.out_h * op.out_w * op.c;
    float* dx = out->typed_data() + n * image;
    Index cleared = 0;  // rows; those that a window is about to reach
    auto clear_up_to = [&](Index rows) {
      if (rows > cleared) std::memset(dx + cleared * row, 0, (rows - cleared) * row * sizeof(float)), cleared = rows;
    };
    for (Index y = 0; y < op.out_h; ++y) {
      clear_up_to(std::min(op.h, y * op.stride - op.padding + op.window));
      for (Index column = 0; column < op.out_w; ++column)
        for (Index c = 0; c < op.c; c += LANES) {
          Vec most = {}, value = load_some(g + (y * op.out_w + column) * op.c + c, op.c - c);
          Places places = {};
          op.maximum(x, y, column, c, most, places);
          op.over_window(y, column, [&](Index pixel) {
            float* to = dx + pixel * op.c + c;
            Vec sum = load_some(to, op.c - c);
            store_some(to, places == int32_t(pixel) ? sum + value : sum, op.c - c);
          });
        }
    }
    clear_up_to(op.h);
  });
  return ffi::Error::Success();
}

}  // namespace
}  // namespace resnet_jax

#define POOL_OF(operands)                  \
  xla::ffi::Ffi::Bind()                    \
      .Ctx<xla::ffi::ThreadPool>()         \
      operands                             \
      .Attr<resnet_jax::Index>("window")   \
      .Attr<resnet_jax::Index>("stride")   \
      .Attr<resnet_jax::Index>("padding")  \
      .Ret<resnet_jax::Array>()

XLA_FFI_DEFINE_HANDLER_SYMBOL(max_pool, resnet_jax::Maximum, POOL_OF(.Arg<resnet_jax::Array>()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(max_pool_gather, resnet_jax::Gather,
                              POOL_OF(.Arg<resnet_jax::Array>().Arg<resnet_jax::Array>()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(max_pool_scatter, resnet_jax::Scatter,
                              POOL_OF(.Arg<resnet_jax::Array>().Arg<resnet_jax::Array>()));
