// The three operations of a convolution over images, in float32, for the CPU that this file is compiled on.
//
// Arrays are dense and row-major: images (N, H, W, C), kernels (rows, columns, C, K). Sums are over fixed blocks in a
// fixed order that depends on the shapes alone: results do not depend on the number of threads.
#pragma once

#include "convolution.h"
#include "winograd.h"

namespace resnet_jax {

constexpr Index PRODUCT_CHANNELS = 64;  // fewer do not repay the copy of each window

// A single tap without padding is a product of matrices. Its sums are those of the correlation, number after number, but
// where they go is fetched into the cache meanwhile.
inline bool took_product(ffi::ThreadPool& pool, const Convolution& op, const float* x, const float* kernel,
                         const Finish& finish, float* y) {
  const bool takes = op.rows * op.columns == 1 && op.pad_y == 0 && op.pad_x == 0 && op.k > LANES;
  if (takes) product(pool, op, x, kernel, nullptr, finish, y);
  return takes;
}

// One of the forms of a correlation.
inline void correlation(ffi::ThreadPool& pool, Correlation& op, const float* in, float* out) {
  if (op.taps.size() == 1 && op.out_stride == 1 && op.in_stride == 1 && op.taps[0].dy == 0 && op.taps[0].dx == 0 &&
      op.out_h == op.h && op.out_w == op.w)
    flatten(op);
  takes_winograd(op) ? winograd(pool, op, in, out) : correlate_any(pool, op, in, out);
}

inline Correlation forward_sum(const Convolution& op, const float* kernel, const Finish& finish) {
  Correlation sum{op.n,     op.h,     op.w,      op.c, op.out_h, op.out_w, op.k,
                  op.out_h, op.out_w, op.stride, 1,    0,        0,        op.k, 1, {}};
  sum.finish = finish;
  for (Index i = 0; i < op.rows; ++i)
    for (Index j = 0; j < op.columns; ++j)
      sum.taps.push_back({i - op.pad_y, j - op.pad_x, kernel + (i * op.columns + j) * op.c * op.k});
  return sum;
}

inline void forward(ffi::ThreadPool& pool, const Convolution& op, const float* x, const float* kernel, float* y,
                    const Finish& finish = {}) {
  if (took_product(pool, op, x, kernel, finish, y)) return;
  Correlation sum = forward_sum(op, kernel, finish);
  correlation(pool, sum, x, y);
}

// The forward convolution of inference, with what follows it. It may take another form, and so round otherwise, than the
// convolution of training does.
inline void finished_forward(ffi::ThreadPool& pool, const Convolution& op, const float* x, const float* kernel,
                             const Finish& finish, float* y) {
  const Index taps = op.rows * op.columns;
  const bool tiles = op.rows == 3 && op.columns == 3 && op.stride == 1 && std::min(op.c, op.k) >= WINOGRAD_CHANNELS;
  // A kernel of many channels for a single small image is not transformed in the time that the products would save.
  const bool transforms = tiles && op.n * op.out_h * op.out_w * 4 >= op.c;
  // The windows of several taps are many copies: they pay where the tiles of a row would be narrow.
  const bool copies = taps == 1 || (op.k >= PRODUCT_CHANNELS && op.c >= PRODUCT_CHANNELS &&
                                    (gemm::few(op) || op.out_w < 4 * gemm::PIXELS % 56));
  if (!transforms && op.k > LANES && copies) return product(pool, op, x, kernel, nullptr, finish, y);
  forward(pool, op, x, kernel, y, finish);
}

// A matrix of c rows and k columns, transposed.
inline const float* transposed(ffi::ThreadPool& pool, const float* matrix, Index c, Index k) {
  constexpr Index SIDE = 16;  // of a square that is read and written while its lines are in the cache
  float* const out = scratch(TRANSPOSED, c * k);
  parallel_for(pool, ceil_div(c, SIDE), [&](Index task) {
    const Index begin = task * SIDE, end = std::min(c, begin + SIDE);
    for (Index j = 0; j < k; ++j)
      for (Index i = begin; i < end; ++i) out[j * c + i] = matrix[i * k + j];
  });
  return out;
}

inline void input_gradient(ffi::ThreadPool& pool, const Convolution& op, const float* g, const float* kernel,
                           float* x) {
  if (op.rows * op.columns == 1 && op.stride == 1) {
    const Convolution back{op.n, op.out_h, op.out_w, op.k, op.h, op.w, op.c, 1, 1, 1, op.pad_y, op.pad_x};
    if (took_product(pool, back, g, transposed(pool, kernel, op.c, op.k), {}, x)) return;
  }
  for (Index py = 0; py < op.stride; ++py)
    for (Index px = 0; px < op.stride; ++px) {
      Correlation sum{op.n, op.out_h, op.out_w, op.k, op.h, op.w, op.c, ceil_div(op.h - py, op.stride),
                      ceil_div(op.w - px, op.stride), 1, op.stride, py, px, 1, op.k, {}};
      for (Index i = 0; i < op.rows; ++i)
        for (Index j = 0; j < op.columns; ++j)
          if ((py + op.pad_y - i) % op.stride == 0 && (px + op.pad_x - j) % op.stride == 0)
            sum.taps.push_back({(py + op.pad_y - i) / op.stride, (px + op.pad_x - j) / op.stride,
                                kernel + (i * op.columns + j) * op.c * op.k});
      correlation(pool, sum, g, x);
    }
}

void weight_gradient(ffi::ThreadPool& pool, Convolution op, const float* x, const float* g, float* dw);

}  // namespace resnet_jax
