// The three operations of a convolution over images, in float32, for the CPU that this file is compiled on.
//
// Arrays are dense and row-major: images (N, H, W, C), kernels (rows, columns, C, K). Sums are over fixed blocks in a
// fixed order that depends on the shapes alone: results do not depend on the number of threads.
//
// A tile of R pixels times V vectors of output channels stays in registers while the taps and the input channels pass.
// The input comes from a copy of some of its rows with the padding written out and the channels cut into blocks of a
// constant number: no bounds are left to check, and every address is a base plus a constant. The kernel comes packed in
// the order in which it is read. This is the direct convolution of Georganas et al., "Anatomy of High-Performance Deep
// Learning Convolutions on SIMD Architectures" (arXiv 1808.05567), without code generation.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

using Index = int64_t;

// Registers: LANES floats each; a tile of at most TILE_PIXELS x 2 of them leaves room for the operands.
#if defined(__AVX512F__)
constexpr int LANES = 16, TILE_PIXELS = 14;
#elif defined(__AVX__)
constexpr int LANES = 8, TILE_PIXELS = 6;
#else
constexpr int LANES = 4, TILE_PIXELS = 8;
#endif
typedef float Vec __attribute__((vector_size(LANES * sizeof(float))));
typedef float VecU __attribute__((vector_size(LANES * sizeof(float)), aligned(4)));

// What a thread works on at a time should fit in its second-level cache, beside the packed kernel.
constexpr Index BAND_BYTES = 256 << 10;
constexpr Index KERNEL_GRADIENT_BYTES = 256 << 10;
constexpr Index PARTIAL_BYTES = 8 << 20;
constexpr Index TASKS = 16;  // enough for some cores, each with some tasks

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

// Memory of this thread that is kept from call to call.
float* scratch(Index floats) {
  struct Free { void operator()(float* p) const { std::free(p); } };
  thread_local std::unique_ptr<float, Free> memory;
  thread_local Index size = 0;
  if (size < floats) {
    size = ceil_div(floats, 1024) * 1024;
    memory.reset(static_cast<float*>(std::aligned_alloc(64, size * sizeof(float))));
  }
  return memory.get();
}

// Runs task(0) .. task(count - 1) on the caller and on whatever threads of XLA's pool come free in time. The caller
// never waits for a thread that has not begun, so any number of these may run in one pool at once.
template <typename Task>
void parallel_for(ffi::ThreadPool& pool, Index count, const Task& task) {
  struct Shared {
    std::atomic<Index> next{0}, done{0};
    Index count;
    const Task* task;
  };
  auto shared = std::make_shared<Shared>();
  shared->count = count;
  shared->task = &task;
  auto work = [shared] {
    Index finished = 0;
    for (Index i; (i = shared->next.fetch_add(1)) < shared->count; ++finished) (*shared->task)(i);
    shared->done.fetch_add(finished);
  };
  Index helpers = std::min<Index>(pool.num_threads(), count) - 1;
  for (Index i = 0; i < helpers; ++i) pool.Schedule([work]() mutable { work(); });
  work();
  while (shared->done.load() < count) std::this_thread::yield();
}

// ---------------------------------------------------------------------------------------------------------------------
// Correlation: out[y * out_stride + first_y, ...] = sum over taps of in[y * in_stride + dy, ...] times the tap's matrix.
// The forward convolution is one of these, the input gradient one for each phase of the stride.

struct Tap {
  Index dy, dx;         // where it reads, from the pixel it is for
  const float* matrix;  // its entry of the kernel
};

struct Correlation {
  Index n, h, w, c;                // the input
  Index full_h, full_w, k;         // the output that is written into
  Index out_h, out_w;              // how much of it this is: every out_stride-th pixel, from first_y and first_x on
  Index in_stride, out_stride, first_y, first_x;
  Index matrix_c, matrix_k;        // distance of consecutive input and output channels in a tap's matrix
  std::vector<Tap> taps;
};

// Copies rows [y, y + rows) and columns [x, x + columns) of channels [c, c + BLOCK) of one image; zeros lie outside.
template <int BLOCK>
void copy_block(const float* image, Index h, Index w, Index channels, Index c, Index y, Index rows, Index x, Index columns,
                float* out) {
  Index valid = std::min<Index>(BLOCK, channels - c);
  for (Index row = 0; row < rows; ++row, out += columns * BLOCK) {
    Index in_y = y + row;
    if (in_y < 0 || in_y >= h) {
      std::memset(out, 0, columns * BLOCK * sizeof(float));
      continue;
    }
    Index first = std::clamp<Index>(-x, 0, columns), last = std::clamp<Index>(w - x, first, columns);
    std::memset(out, 0, first * BLOCK * sizeof(float));
    std::memset(out + last * BLOCK, 0, (columns - last) * BLOCK * sizeof(float));
    const float* in = image + (in_y * w + x + first) * channels + c;
    float* to = out + first * BLOCK;
    if (valid == BLOCK) {
      for (Index column = first; column < last; ++column, in += channels, to += BLOCK)
        std::memcpy(to, in, BLOCK * sizeof(float));
    } else {
      for (Index column = first; column < last; ++column, in += channels, to += BLOCK) {
        std::memcpy(to, in, valid * sizeof(float));
        std::memset(to + valid, 0, (BLOCK - valid) * sizeof(float));
      }
    }
  }
}

// What all tiles of a row have in common: the copied blocks of input channels, the taps as offsets into one of them, the
// kernel packed in the order [block][tap][input channel][output channel], and where and how to write.
struct Row {
  Index blocks, block_step;
  const Index* taps;
  Index tap_count;
  const float* kernel;
  Index out_step, channels;
  bool begin;  // or else add to what is there
};

// R pixels of a row, IN_STRIDE apart in the copied rows, times V vectors of output channels.
template <int BLOCK, int IN_STRIDE, int R, int V>
inline void correlate_tile(const float* in, const Row& row, float* out) {
  const Index out_step = row.out_step, channels = row.channels;
  const float* kernel = row.kernel;
  Vec sums[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v)
      sums[r][v] = row.begin ? Vec{} : load_some(out + r * out_step + v * LANES, channels - v * LANES);
  for (Index block = 0; block < row.blocks; ++block, in += row.block_step) {
    for (Index t = 0; t < row.tap_count; ++t) {
      const float* from = in + row.taps[t];
#pragma GCC unroll 2
      for (int c = 0; c < BLOCK; ++c, kernel += V * LANES) {
        Vec weights[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) weights[v] = load(kernel + v * LANES);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) sums[r][v] += weights[v] * from[r * IN_STRIDE * BLOCK + c];
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store_some(out + r * out_step + v * LANES, sums[r][v], channels - v * LANES);
}

// A row of `pixels`, in the widest tiles that fit.
template <int BLOCK, int IN_STRIDE, int V, int R>
void correlate_row(const float* in, const Row& row, float* out, Index pixels) {
  constexpr int NEXT = R > 8 ? 8 : R == 8 ? 7 : R == 7 || R == 6 ? 4 : R / 2;
  // Tiles of equal width are better than wide ones and a narrow rest: 16 pixels are 8 + 8, not 14 + 2.
  if constexpr (R > 8) {
    if (pixels % R != 0 && pixels % 8 == 0) return correlate_row<BLOCK, IN_STRIDE, V, 8>(in, row, out, pixels);
  }
  for (; pixels >= R; pixels -= R, in += R * IN_STRIDE * BLOCK, out += R * row.out_step)
    correlate_tile<BLOCK, IN_STRIDE, R, V>(in, row, out);
  if constexpr (R > 1) {
    if (pixels > 0) correlate_row<BLOCK, IN_STRIDE, V, NEXT>(in, row, out, pixels);
  }
}

template <int BLOCK, int IN_STRIDE, int V>
void correlate(ffi::ThreadPool& pool, const Correlation& op, const float* in, float* out) {
  const Index tap_count = op.taps.size(), width = V * LANES;
  const Index c_blocks = ceil_div(op.c, BLOCK), k_blocks = ceil_div(op.k, width);
  const Index panel = tap_count * BLOCK * width;

  // Pack: [block of output channels][block of input channels][tap][input channel][output channel].
  std::unique_ptr<float[]> packed(new float[std::max<Index>(1, k_blocks * c_blocks * panel)]);
  parallel_for(pool, k_blocks * c_blocks, [&](Index task) {
    Index k0 = task / c_blocks * width, c0 = task % c_blocks * BLOCK;
    float* to = packed.get() + task * panel;
    for (const Tap& tap : op.taps)
      for (Index c = c0; c < c0 + BLOCK; ++c)
        for (Index k = k0; k < k0 + width; ++k)
          *to++ = c < op.c && k < op.k ? tap.matrix[c * op.matrix_c + k * op.matrix_k] : 0.0f;
  });

  Index low_y = 0, high_y = 0, low_x = 0, high_x = 0;
  for (size_t t = 0; t < op.taps.size(); ++t) {
    low_y = t ? std::min(low_y, op.taps[t].dy) : op.taps[t].dy, high_y = t ? std::max(high_y, op.taps[t].dy) : low_y;
    low_x = t ? std::min(low_x, op.taps[t].dx) : op.taps[t].dx, high_x = t ? std::max(high_x, op.taps[t].dx) : low_x;
  }
  const Index columns = (op.out_w - 1) * IN_STRIDE + high_x - low_x + 1;
  std::vector<Index> taps;
  for (const Tap& tap : op.taps) taps.push_back(((tap.dy - low_y) * columns + tap.dx - low_x) * BLOCK);

  // A single tap does little with a block of channels: take all of them before a tile is written.
  const Index group = tap_count == 1 ? c_blocks : 1;
  const Index row_bytes = columns * BLOCK * IN_STRIDE * group * Index(sizeof(float));
  const Index band = std::clamp<Index>(std::min(BAND_BYTES / row_bytes, ceil_div(op.n * op.out_h, TASKS)), 1, op.out_h);
  const Index bands = ceil_div(op.out_h, band);
  parallel_for(pool, op.n * bands, [&](Index task) {
    const Index image = task / bands, y0 = task % bands * band, y1 = std::min(op.out_h, y0 + band);
    const Index rows = (y1 - y0 - 1) * IN_STRIDE + high_y - low_y + 1, block_step = rows * columns * BLOCK;
    float* copy = scratch(group * block_step);
    for (Index cb = 0; cb < c_blocks; cb += group) {
      for (Index b = 0; b < group; ++b)
        copy_block<BLOCK>(in + image * op.h * op.w * op.c, op.h, op.w, op.c, (cb + b) * BLOCK, y0 * IN_STRIDE + low_y,
                          rows, low_x, columns, copy + b * block_step);
      for (Index kb = 0; kb < k_blocks; ++kb) {
        const Row row{group, block_step, taps.data(), tap_count, packed.get() + (kb * c_blocks + cb) * panel,
                      op.out_stride * op.k, op.k - kb * width, cb == 0};
        for (Index y = y0; y < y1; ++y) {
          Index pixel = (image * op.full_h + y * op.out_stride + op.first_y) * op.full_w + op.first_x;
          correlate_row<BLOCK, IN_STRIDE, V, V == 1 && TILE_PIXELS < 8 ? 8 : TILE_PIXELS>(
              copy + (y - y0) * IN_STRIDE * columns * BLOCK, row, out + pixel * op.k + kb * width, op.out_w);
        }
      }
    }
  });
}

template <int BLOCK, int IN_STRIDE>
void correlate_any_width(ffi::ThreadPool& pool, const Correlation& op, const float* in, float* out) {
  if (op.k <= LANES) return correlate<BLOCK, IN_STRIDE, 1>(pool, op, in, out);
  return correlate<BLOCK, IN_STRIDE, 2>(pool, op, in, out);
}

template <int BLOCK>
void correlate_any_stride(ffi::ThreadPool& pool, const Correlation& op, const float* in, float* out) {
  if (op.in_stride == 1) return correlate_any_width<BLOCK, 1>(pool, op, in, out);
  return correlate_any_width<BLOCK, 2>(pool, op, in, out);
}

// To a single tap without stride or padding the pixels of all images are one long row: cut it into full tiles.
void flatten(Correlation& op) {
  const Index pixels = op.n * op.h * op.w;
  const Index w = pixels % 14 == 0 ? 14 : pixels % 8 == 0 ? 8 : op.w;
  op.n = 1, op.h = op.full_h = op.out_h = pixels / w, op.w = op.full_w = op.out_w = w;
}

void correlate_any(ffi::ThreadPool& pool, const Correlation& op, const float* in, float* out) {
  if (op.out_h <= 0 || op.out_w <= 0) return;
  if (op.c <= 4) return correlate_any_stride<4>(pool, op, in, out);
  if (op.c <= 16) return correlate_any_stride<16>(pool, op, in, out);
  if (op.c <= 32) return correlate_any_stride<32>(pool, op, in, out);
  return correlate_any_stride<64>(pool, op, in, out);
}

// ---------------------------------------------------------------------------------------------------------------------
// Weight gradient: dw[i, j] = sum over pixels of x[y * stride + i - pad, ...] g[y, ...]^T.

struct WeightGradient {
  Index n, h, w, c, out_h, out_w, k, rows, columns, stride, pad_y, pad_x;
};

// R input channels times V vectors of output channels, summed over the pixels of a band.
template <int BLOCK, int STRIDE, int R, int V>
inline void outer_tile(const float* x, Index x_row, const float* g, Index g_row, Index k, Index rows, Index pixels,
                       float* sums_out, Index sums_row, Index channels) {
  Vec sums[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sums[r][v] = load_some(sums_out + r * sums_row + v * LANES, channels - v * LANES);
  if (channels >= V * LANES) {
    for (Index row = 0; row < rows; ++row) {
      const float *a = x + row * x_row, *b = g + row * g_row;
      for (Index p = 0; p < pixels; ++p, a += STRIDE * BLOCK, b += k) {
        Vec values[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) values[v] = load(b + v * LANES);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) sums[r][v] += values[v] * a[r];
      }
    }
  } else {
    for (Index row = 0; row < rows; ++row) {
      const float *a = x + row * x_row, *b = g + row * g_row;
      for (Index p = 0; p < pixels; ++p, a += STRIDE * BLOCK, b += k)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          Vec values = load_some(b + v * LANES, channels - v * LANES);
#pragma GCC unroll 16
          for (int r = 0; r < R; ++r) sums[r][v] += values * a[r];
        }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store_some(sums_out + r * sums_row + v * LANES, sums[r][v], channels - v * LANES);
}

template <int BLOCK, int STRIDE, int V>
void weight_gradient(ffi::ThreadPool& pool, const WeightGradient& op, const float* x, const float* g, float* dw) {
  constexpr int R = BLOCK < 8 ? BLOCK : (LANES == 16 ? (V == 1 ? 16 : 8) : 4);
  const Index taps = op.rows * op.columns, size = taps * op.c * op.k, c_blocks = ceil_div(op.c, BLOCK);
  const Index columns = (op.out_w - 1) * STRIDE + op.columns;
  const Index width = V * LANES;
  // Channels of g at a time: the sums of a block of channels stay in cache.
  const Index k_group =
      std::max<Index>(1, KERNEL_GRADIENT_BYTES / (taps * BLOCK * Index(sizeof(float)) * width)) * width;
  // Groups of images add up apart from each other and are then added in order.
  const Index wanted = std::min(ceil_div(TASKS, c_blocks), PARTIAL_BYTES / (size * Index(sizeof(float))));
  const Index groups = std::clamp<Index>(wanted, 1, op.n);
  const Index padded_c = c_blocks * BLOCK, padded = taps * padded_c * op.k;
  std::unique_ptr<float[]> partial(new float[groups * padded]);
  const Index row_bytes = columns * BLOCK * STRIDE * Index(sizeof(float));
  const Index band = std::clamp<Index>(BAND_BYTES / row_bytes, 1, op.out_h);

  parallel_for(pool, groups * c_blocks, [&](Index task) {
    const Index group = task / c_blocks, cb = task % c_blocks;
    float* sums = partial.get() + group * padded + cb * BLOCK * op.k;
    for (Index t = 0; t < taps; ++t) std::memset(sums + t * padded_c * op.k, 0, BLOCK * op.k * sizeof(float));
    float* copy = scratch(((band - 1) * STRIDE + op.rows) * columns * BLOCK);
    for (Index k0 = 0; k0 < op.k; k0 += k_group) {
      const Index k1 = std::min(op.k, k0 + k_group);
      for (Index image = op.n * group / groups; image < op.n * (group + 1) / groups; ++image) {
        for (Index y0 = 0; y0 < op.out_h; y0 += band) {
          const Index height = std::min(band, op.out_h - y0);
          copy_block<BLOCK>(x + image * op.h * op.w * op.c, op.h, op.w, op.c, cb * BLOCK, y0 * STRIDE - op.pad_y,
                            (height - 1) * STRIDE + op.rows, -op.pad_x, columns, copy);
          const float* from = g + (image * op.out_h + y0) * op.out_w * op.k;
          for (Index k = k0; k < k1; k += width)
            for (Index i = 0; i < op.rows; ++i)
              for (Index j = 0; j < op.columns; ++j)
                for (Index c = 0; c < BLOCK; c += R)
                  outer_tile<BLOCK, STRIDE, R, V>(copy + (i * columns + j) * BLOCK + c, columns * STRIDE * BLOCK, from + k,
                                                  op.out_w * op.k, op.k, height, op.out_w,
                                                  sums + ((i * op.columns + j) * padded_c + c) * op.k + k, op.k, k1 - k);
        }
      }
    }
  });
  parallel_for(pool, taps, [&](Index t) {
    float* to = dw + t * op.c * op.k;
    std::memcpy(to, partial.get() + t * padded_c * op.k, op.c * op.k * sizeof(float));
    for (Index group = 1; group < groups; ++group) {
      const float* from = partial.get() + group * padded + t * padded_c * op.k;
      for (Index i = 0; i < op.c * op.k; ++i) to[i] += from[i];
    }
  });
}

template <int BLOCK, int STRIDE>
void weight_gradient_any_width(ffi::ThreadPool& pool, const WeightGradient& op, const float* x, const float* g, float* dw) {
  if (op.k <= LANES) return weight_gradient<BLOCK, STRIDE, 1>(pool, op, x, g, dw);
  return weight_gradient<BLOCK, STRIDE, 2>(pool, op, x, g, dw);
}

template <int BLOCK>
void weight_gradient_any_stride(ffi::ThreadPool& pool, const WeightGradient& op, const float* x, const float* g, float* dw) {
  if (op.stride == 1) return weight_gradient_any_width<BLOCK, 1>(pool, op, x, g, dw);
  return weight_gradient_any_width<BLOCK, 2>(pool, op, x, g, dw);
}

void weight_gradient_any(ffi::ThreadPool& pool, const WeightGradient& op, const float* x, const float* g, float* dw) {
  if (op.c <= 4) return weight_gradient_any_stride<4>(pool, op, x, g, dw);
  if (op.c <= 16) return weight_gradient_any_stride<16>(pool, op, x, g, dw);
  if (op.c <= 32) return weight_gradient_any_stride<32>(pool, op, x, g, dw);
  return weight_gradient_any_stride<64>(pool, op, x, g, dw);
}

// ---------------------------------------------------------------------------------------------------------------------
// Handlers. The caller has checked: two spatial dimensions, one stride of 1 or 2 for both, no dilation, no groups.

using Array = ffi::Buffer<ffi::F32>;
using Result = ffi::ResultBuffer<ffi::F32>;

ffi::Error Forward(ffi::ThreadPool pool, Array x, Array kernel, Index stride, Index pad_y, Index pad_x, Result y) {
  auto in = x.dimensions(), window = kernel.dimensions(), out = y->dimensions();
  Correlation op{in[0], in[1], in[2], in[3], out[1], out[2], out[3], out[1], out[2], stride, 1, 0, 0, window[3], 1, {}};
  for (Index i = 0; i < window[0]; ++i)
    for (Index j = 0; j < window[1]; ++j)
      op.taps.push_back({i - pad_y, j - pad_x, kernel.typed_data() + (i * window[1] + j) * window[2] * window[3]});
  if (window[0] * window[1] == 1 && stride == 1 && pad_y == 0 && pad_x == 0) flatten(op);
  correlate_any(pool, op, x.typed_data(), y->typed_data());
  return ffi::Error::Success();
}

ffi::Error InputGradient(ffi::ThreadPool pool, Array g, Array kernel, Index stride, Index pad_y, Index pad_x, Result x) {
  auto in = g.dimensions(), window = kernel.dimensions(), out = x->dimensions();
  for (Index py = 0; py < stride; ++py)
    for (Index px = 0; px < stride; ++px) {
      Correlation op{in[0], in[1], in[2], in[3], out[1], out[2], out[3], ceil_div(out[1] - py, stride),
                     ceil_div(out[2] - px, stride), 1, stride, py, px, 1, window[3], {}};
      for (Index i = 0; i < window[0]; ++i)
        for (Index j = 0; j < window[1]; ++j)
          if ((py + pad_y - i) % stride == 0 && (px + pad_x - j) % stride == 0)
            op.taps.push_back({(py + pad_y - i) / stride, (px + pad_x - j) / stride,
                               kernel.typed_data() + (i * window[1] + j) * window[2] * window[3]});
      if (window[0] * window[1] == 1 && stride == 1 && pad_y == 0 && pad_x == 0) flatten(op);
      correlate_any(pool, op, g.typed_data(), x->typed_data());
    }
  return ffi::Error::Success();
}

ffi::Error KernelGradient(ffi::ThreadPool pool, Array x, Array g, Index stride, Index pad_y, Index pad_x, Result dw) {
  auto in = x.dimensions(), out = g.dimensions(), window = dw->dimensions();
  WeightGradient op{in[0], in[1], in[2], in[3], out[1], out[2], out[3], window[0], window[1], stride, pad_y, pad_x};
  weight_gradient_any(pool, op, x.typed_data(), g.typed_data(), dw->typed_data());
  return ffi::Error::Success();
}

#define BIND()                                    \
  ffi::Ffi::Bind()                                \
      .Ctx<ffi::ThreadPool>()                     \
      .Arg<Array>()                               \
      .Arg<Array>()                               \
      .Attr<Index>("stride")                      \
      .Attr<Index>("pad_y")                       \
      .Attr<Index>("pad_x")                       \
      .Ret<Array>()

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(conv_forward, Forward, BIND());
XLA_FFI_DEFINE_HANDLER_SYMBOL(conv_input_gradient, InputGradient, BIND());
XLA_FFI_DEFINE_HANDLER_SYMBOL(conv_weight_gradient, KernelGradient, BIND());
