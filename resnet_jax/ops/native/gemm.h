// The forward convolution of inference as one matrix product: rows are pixels of the output, columns its channels, and
// what is summed over is the window of the input that a pixel sees. What follows the sum (a bias, an addition, a ReLU)
// is done while the tile is in registers, so that the output is written once and not read again.
//
// A tile of R pixels times two vectors of channels stays in registers. A thread copies the windows of some pixels into
// blocks of a constant number of input numbers, small enough to stay in its second-level cache, and passes the kernel
// over them. With few pixels (one image, a late layer) it is the other way around: the windows of all pixels are copied
// once, and each thread takes some output channels, whose part of the kernel it packs for itself.
#pragma once

#include "common.h"
#include "convolution.h"

namespace resnet_jax {

// What is done to the sums: bias by channel, then an array like the output, then the ReLU; null for none.
struct Finish {
  const float* bias = nullptr;
  const float* skip = nullptr;
  bool relu = false;

  bool any() const { return bias || skip || relu; }
};

inline Vec positive_part(Vec v) { return v < 0 ? Vec{} : v; }  // keeps what is not a number, as max(v, 0) of XLA does

namespace gemm {

constexpr int BLOCK = 64, V = 2, WIDTH = V * LANES;
constexpr int PIXELS = LANES == 16 ? 14 : 6;          // of the largest tile
constexpr Index CHUNK = 18 * BLOCK;                   // of the sum: a panel of the kernel and a tile's windows
constexpr Index BAND_FLOATS = 64 << 10;               // of copied windows
constexpr Index FEW_PIXELS = 784, FEWEST_PIXELS = 48; // that decide by what the work is cut

// What the tiles of a panel (WIDTH output channels) have in common.
struct Panel {
  Index sums, block_step;       // numbers of this chunk of the sum, and the distance of its blocks in the copy
  const float* kernel;          // packed: [number][channel]
  Index out_step, channels;     // of the output, and how many of its channels are left
  bool begin, end;              // of the sum
  const float* bias;
  const float *out_base, *skip_base;
  bool relu;
};

template <int R>
__attribute__((noinline)) void tile(const float* in, const Panel& panel, float* out) {
  const Index step = panel.out_step, channels = panel.channels;
  const float* kernel = panel.kernel;
  Vec sums[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v)
      sums[r][v] = panel.begin ? Vec{} : load_some(out + r * step + v * LANES, channels - v * LANES);
  for (Index left = panel.sums; left > 0; left -= BLOCK, in += panel.block_step) {
    const Index count = std::min<Index>(left, BLOCK);
    for (Index c = 0; c < count; ++c, kernel += WIDTH) {
      Vec weights[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) weights[v] = load(kernel + v * LANES);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) sums[r][v] += weights[v] * in[r * BLOCK + c];
    }
  }
  if (panel.end) {
    if (panel.bias)
      for (int v = 0; v < V; ++v) {
        const Vec bias = load_some(panel.bias + v * LANES, channels - v * LANES);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) sums[r][v] += bias;
      }
    if (panel.skip_base) {
      const float* const skip = panel.skip_base + (out - panel.out_base);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) sums[r][v] += load_some(skip + r * step + v * LANES, channels - v * LANES);
    }
    if (panel.relu)
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) sums[r][v] = positive_part(sums[r][v]);
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) store_some(out + r * step + v * LANES, sums[r][v], channels - v * LANES);
}

// Tiles of R pixels and, for what is left over, smaller ones.
template <int R>
void tiles(const float* in, const Panel& panel, float* out, Index pixels) {
  constexpr int NEXT = R > 8 ? 7 : R > 4 ? 4 : R / 2;
  for (; pixels >= R; pixels -= R, in += R * BLOCK, out += R * panel.out_step) tile<R>(in, panel, out);
  if constexpr (R > 1) {
    if (pixels > 0) tiles<NEXT>(in, panel, out, pixels);
  }
}

// As `pixels` are few: tiles of PIXELS, and of one pixel less where that comes out even (49 = 4 x 6 + 5 x 5).
inline void all_tiles(const float* in, const Panel& panel, float* out, Index pixels) {
  if constexpr (LANES < 16) {
    const Index count = ceil_div(pixels, PIXELS), shorter = count * PIXELS - pixels;
    if (shorter <= count && shorter > 1)
      for (Index i = 0; i < shorter; ++i, pixels -= PIXELS - 1, in += (PIXELS - 1) * BLOCK,
                 out += (PIXELS - 1) * panel.out_step)
        tile<PIXELS - 1>(in, panel, out);
  }
  tiles<PIXELS>(in, panel, out, pixels);
}

inline void copy(float* to, const float* from, Index count) {
  if (count < LANES) {
    for (Index i = 0; i < count; ++i) to[i] = from[i];
    return;
  }
  for (Index i = 0; i + LANES < count; i += LANES) store(to + i, load(from + i));
  store(to + count - LANES, load(from + count - LANES));
}

// The windows of pixels [begin, begin + pixels), of each the numbers [first, first + sums): [block][pixel][number].
inline void copy_windows(const Convolution& op, const float* x, Index begin, Index pixels, Index first, Index sums,
                         float* out, Index block_step) {
  const Index line = op.columns * op.c;  // of a window, contiguous in the image
  Index column = begin % op.out_w, row = begin / op.out_w % op.out_h, image = begin / op.out_w / op.out_h;
  for (Index p = 0; p < pixels; ++p, out += BLOCK) {
    const Index x0 = column * op.stride - op.pad_x, y0 = row * op.stride - op.pad_y;
    const Index low = std::clamp<Index>(-x0, 0, op.columns) * op.c;
    const Index high = std::clamp<Index>(op.w - x0, 0, op.columns) * op.c;
    for (Index at = first; at < first + sums;) {
      const Index i = at / line, j = at % line, y = y0 + i, in_block = (at - first) % BLOCK;
      float* const to = out + (at - first) / BLOCK * block_step + in_block;
      Index count = std::min({line - j, BLOCK - in_block, first + sums - at});
      const bool inside = y >= 0 && y < op.h && j >= low && j < high;
      if (inside) {
        count = std::min(count, high - j);
        copy(to, x + ((image * op.h + y) * op.w + x0) * op.c + j, count);
      } else {
        if (y >= 0 && y < op.h && j < low) count = std::min(count, low - j);
        for (Index n = 0; n < count; ++n) to[n] = 0;
      }
      at += count;
    }
    if (++column == op.out_w) {
      column = 0;
      if (++row == op.out_h) row = 0, ++image;
    }
  }
}

inline void pack(const float* kernel, Index k, Index channels, Index sums, float* out) {
  if (channels >= WIDTH) {
    for (Index c = 0; c < sums; ++c, kernel += k, out += WIDTH) {
      __builtin_prefetch(kernel + 16 * k);
      if (WIDTH > 16) __builtin_prefetch(kernel + 16 * k + 16);
      for (int v = 0; v < V; ++v) store(out + v * LANES, load(kernel + v * LANES));
    }
  } else {
    for (Index c = 0; c < sums; ++c, kernel += k, out += WIDTH)
      for (int v = 0; v < V; ++v) store(out + v * LANES, load_some(kernel + v * LANES, channels - v * LANES));
  }
}

}  // namespace gemm

inline void product(ffi::ThreadPool& pool, const Convolution& op, const float* x, const float* kernel,
                    const Finish& finish, float* y) {
  using namespace gemm;
  const Index pixels = op.n * op.out_h * op.out_w, all = op.rows * op.columns * op.c;
  const Index panels = ceil_div(op.k, WIDTH), chunk = std::min(CHUNK, all);
  auto panel_of = [&](Index p, Index first, Index block_step, const float* packed) {
    const Index sums = std::min(chunk, all - first), k0 = p * WIDTH;
    return Panel{sums, block_step, packed, op.k, op.k - k0, first == 0, first + sums == all,
                 finish.bias ? finish.bias + k0 : nullptr, y, finish.skip, finish.relu};
  };

  if (pixels <= FEW_PIXELS) {
    const Index blocks = ceil_div(all, BLOCK), block_step = pixels * BLOCK, chunk_blocks = ceil_div(chunk, BLOCK);
    float* const copied = scratch(SHARED, blocks * block_step);
    parallel_for(pool, std::min(blocks, TASKS), [&](Index task) {
      const Index count = std::min(blocks, TASKS), begin = blocks * task / count, end = blocks * (task + 1) / count;
      copy_windows(op, x, 0, pixels, begin * BLOCK, std::min(all, end * BLOCK) - begin * BLOCK,
                   copied + begin * block_step, block_step);
    });
    const Index parts = std::clamp<Index>(TASKS / panels, 1, std::max<Index>(1, pixels / FEWEST_PIXELS));
    parallel_for(pool, panels * parts, [&](Index task) {
      const Index p = task / parts, part = task % parts, begin = pixels * part / parts;
      const Index count = pixels * (part + 1) / parts - begin;
      float* const packed = scratch(LOCAL, chunk * WIDTH);
      for (Index first = 0; first < all; first += chunk_blocks * BLOCK) {
        const Panel panel = panel_of(p, first, block_step, packed);
        pack(kernel + first * op.k + p * WIDTH, op.k, panel.channels, panel.sums, packed);
        all_tiles(copied + first / BLOCK * block_step + begin * BLOCK, panel, y + begin * op.k + p * WIDTH, count);
      }
    });
    return;
  }

  float* const packed = scratch(SHARED, panels * all * WIDTH);
  parallel_for(pool, panels, [&](Index p) {
    pack(kernel + p * WIDTH, op.k, op.k - p * WIDTH, all, packed + p * all * WIDTH);
  });
  const Index padded = ceil_div(chunk, BLOCK) * BLOCK;
  const Index most = std::max<Index>(PIXELS, BAND_FLOATS / padded / PIXELS * PIXELS);
  const Index band = std::min(most, ceil_div(ceil_div(pixels, TASKS), PIXELS) * PIXELS), bands = ceil_div(pixels, band);
  parallel_for(pool, bands, [&](Index task) {
    const Index begin = task * band, count = std::min(band, pixels - begin), block_step = count * BLOCK;
    float* const copied = scratch(LOCAL, padded * count);
    for (Index first = 0; first < all; first += padded) {
      copy_windows(op, x, begin, count, first, std::min(chunk, all - first), copied, block_step);
      for (Index p = 0; p < panels; ++p) {
        const Panel panel = panel_of(p, first, block_step, packed + (p * all + first) * WIDTH);
        all_tiles(copied, panel, y + begin * op.k + p * WIDTH, count);
      }
    }
  });
}

}  // namespace resnet_jax
