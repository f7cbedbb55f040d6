// Sums over all positions, for each channel: what batch normalization and its gradient need of an array, in float32.
//
// Arrays are dense and row-major, (parts, rows, channels); each part has sums of its own. The rows are cut into blocks
// that stay in the second-level cache: a block is summed in float32, the blocks are put together in float64. The cuts
// depend on the shapes alone, so that results do not depend on the number of threads.

#include "common.h"
#include "ffi.h"

namespace resnet_jax {
namespace {

constexpr Index BLOCK_BYTES = 128 << 10;  // of one array
constexpr Index TASKS = 16;               // enough for some cores, each with some tasks

struct Cut {
  Index parts, rows, channels, block, blocks, tasks;  // rows in a block; blocks and tasks of a part

  explicit Cut(ffi::Span<const int64_t> shape) {
    parts = shape.front(), channels = shape.back(), rows = 1;
    for (size_t axis = 1; axis + 1 < shape.size(); ++axis) rows *= shape[axis];
    block = std::clamp<Index>(BLOCK_BYTES / (channels * Index(sizeof(float))), std::min<Index>(rows, 8), rows);
    blocks = ceil_div(rows, block);
    tasks = std::min(blocks, std::max<Index>(1, TASKS / parts));
  }

  // Calls each(first row in the array, rows) for the blocks of a task.
  template <typename Each>
  void blocks_of(Index task, const Each& each) const {
    Index part = task / tasks, number = task % tasks;
    for (Index b = number * blocks / tasks; b < (number + 1) * blocks / tasks; ++b)
      each(part * rows + b * block, std::min(block, rows - b * block));
  }
};

// Calls each(std::integral_constant<int, V>, c) for groups of V vectors of channels from c on; the last may not be full.
template <typename Each>
inline void over_channels(Index channels, const Each& each) {
  Index c = 0;
  for (; channels - c >= 4 * LANES; c += 4 * LANES) each(std::integral_constant<int, 4>(), c);
  for (; channels - c >= 2 * LANES; c += 2 * LANES) each(std::integral_constant<int, 2>(), c);
  for (; channels > c; c += LANES) each(std::integral_constant<int, 1>(), c);
}

// Sums body(row, v), S vectors each, over the rows: V vectors of channels at a time, 4 / V rows, so that additions do not
// wait for each other.
template <int S, int V, typename Body>
inline void sum_rows(Index rows, Vec (&out)[S][V], const Body& body) {
  constexpr int U = 4 / V;
  Vec sums[U][S][V] = {};
  Index row = 0;
  for (; row + U <= rows; row += U)
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) body(row + u, v, sums[u]);
  for (; row < rows; ++row)
    for (int v = 0; v < V; ++v) body(row, v, sums[0]);
  for (int s = 0; s < S; ++s)
    for (int v = 0; v < V; ++v) {
      out[s][v] = sums[0][s][v];
      for (int u = 1; u < U; ++u) out[s][v] += sums[u][s][v];
    }
}

// Mean and sum of squared distances from it of `count` values; the union of two such sets (Chan, Golub & LeVeque 1983).
inline void unite(double& count, double* mean, double* squares, double other, const double* other_mean,
                  const double* other_squares, Index channels) {
  double total = count + other, weight = other / total, between = count * weight;
  for (Index c = 0; c < channels; ++c) {
    double distance = other_mean[c] - mean[c];
    mean[c] += distance * weight;
    squares[c] += other_squares[c] + distance * distance * between;
  }
  count = total;
}

using Array = ffi::Buffer<ffi::F32>;
using Result = ffi::Result<ffi::Buffer<ffi::F32>>;

double* doubles(Purpose purpose, Index count) { return reinterpret_cast<double*>(scratch(purpose, 2 * count)); }

// Mean and variance. A block's squares are of the distances from its own mean: nothing cancels, however far that is from
// zero. The sum of the distances mends what rounding left in the mean.
ffi::Error Moments(ffi::ThreadPool pool, Array x_in, Result mean_out, Result var_out) {
  const Cut cut(x_in.dimensions());
  const Index channels = cut.channels;
  const float* x = x_in.typed_data();
  double* partial = doubles(SHARED, cut.parts * cut.tasks * (2 * channels + 1));  // of a task: mean, squares, count
  parallel_for(pool, cut.parts * cut.tasks, [&](Index task) {
    double *mean = partial + task * (2 * channels + 1), *squares = mean + channels, &count = squares[channels];
    double *block_mean = doubles(LOCAL, 2 * channels), *block_squares = block_mean + channels;
    std::fill(mean, mean + 2 * channels + 1, 0.0);
    cut.blocks_of(task, [&](Index first, Index rows) {
      over_channels(channels, [&](auto vectors, Index c) {
        constexpr int V = decltype(vectors)::value;
        const float* from = x + first * channels + c;
        const Index some = channels - c;
        auto at = [&](Index row, int v) { return load_some(from + row * channels + v * LANES, V > 1 ? LANES : some); };
        Vec sum[1][V], sums[2][V];
        sum_rows<1, V>(rows, sum, [&](Index row, int v, Vec (&s)[1][V]) { s[0][v] += at(row, v); });
        for (int v = 0; v < V; ++v) sum[0][v] /= float(rows);
        sum_rows<2, V>(rows, sums, [&](Index row, int v, Vec (&s)[2][V]) {
          Vec distance = at(row, v) - sum[0][v];
          s[0][v] += distance, s[1][v] += distance * distance;
        });
        for (int v = 0; v < V; ++v)
          for (Index l = 0; l < std::min<Index>(LANES, some - v * LANES); ++l) {
            double rest = sums[0][v][l];
            block_mean[c + v * LANES + l] = sum[0][v][l] + rest / rows;
            block_squares[c + v * LANES + l] = sums[1][v][l] - rest * rest / rows;
          }
      });
      unite(count, mean, squares, rows, block_mean, block_squares, channels);
    });
  });
  for (Index part = 0; part < cut.parts; ++part) {
    double *mean = partial + part * cut.tasks * (2 * channels + 1), *squares = mean + channels, count = squares[channels];
    for (Index task = 1; task < cut.tasks; ++task) {
      const double *other = mean + task * (2 * channels + 1), *other_squares = other + channels;
      unite(count, mean, squares, other_squares[channels], other, other_squares, channels);
    }
    for (Index c = 0; c < channels; ++c) {
      mean_out->typed_data()[part * channels + c] = mean[c];
      var_out->typed_data()[part * channels + c] = squares[c] < 0 ? 0 : squares[c] / count;  // NaN stays
    }
  }
  return ffi::Error::Success();
}

// Sums of g and of g (x - mean); with MASKED only where bias + gain (x - mean) is not negative or zero.
template <bool MASKED>
void collect(ffi::ThreadPool& pool, const Cut& cut, const float* g, const float* x, const float* means,
             const float* biases, const float* gains, float* sum_out, float* product_out) {
  const Index channels = cut.channels;
  double* partial = doubles(SHARED, cut.parts * cut.tasks * 2 * channels);
  parallel_for(pool, cut.parts * cut.tasks, [&](Index task) {
    double* total = partial + task * 2 * channels;
    std::fill(total, total + 2 * channels, 0.0);
    const Index of_part = task / cut.tasks * channels;
    cut.blocks_of(task, [&](Index first, Index rows) {
      over_channels(channels, [&](auto vectors, Index c) {
        constexpr int V = decltype(vectors)::value;
        const float *g_from = g + first * channels + c, *x_from = x + first * channels + c;
        const Index some = V > 1 ? Index(LANES) : channels - c;
        Vec mean[V], bias[V], gain[V], sums[2][V];
        for (int v = 0; v < V; ++v) {
          Index from = of_part + c + v * LANES;
          mean[v] = load_some(means + from, some);
          if (MASKED) bias[v] = load_some(biases + from, some), gain[v] = load_some(gains + from, some);
        }
        sum_rows<2, V>(rows, sums, [&](Index row, int v, Vec (&s)[2][V]) {
          Vec value = load_some(g_from + row * channels + v * LANES, some);
          Vec distance = load_some(x_from + row * channels + v * LANES, some) - mean[v];
          if (MASKED) value = bias[v] + gain[v] * distance <= 0.0f ? Vec{} : value;
          s[0][v] += value, s[1][v] += value * distance;
        });
        for (int s = 0; s < 2; ++s)
          for (int v = 0; v < V; ++v)
            for (Index l = 0; l < std::min<Index>(LANES, channels - c - v * LANES); ++l)
              total[s * channels + c + v * LANES + l] += sums[s][v][l];
      });
    });
  });
  for (Index part = 0; part < cut.parts; ++part)
    for (Index c = 0; c < channels; ++c) {
      double sum = 0, product = 0;
      for (Index task = part * cut.tasks; task < (part + 1) * cut.tasks; ++task)
        sum += partial[task * 2 * channels + c], product += partial[(task * 2 + 1) * channels + c];
      sum_out[part * channels + c] = sum, product_out[part * channels + c] = product;
    }
}

ffi::Error Collect(ffi::ThreadPool pool, Array g, Array x, Array mean, Result sum, Result product) {
  collect<false>(pool, Cut(x.dimensions()), g.typed_data(), x.typed_data(), mean.typed_data(), nullptr, nullptr,
                 sum->typed_data(), product->typed_data());
  return ffi::Error::Success();
}

ffi::Error CollectMasked(ffi::ThreadPool pool, Array g, Array x, Array mean, Array bias, Array gain, Result sum,
                         Result product) {
  collect<true>(pool, Cut(x.dimensions()), g.typed_data(), x.typed_data(), mean.typed_data(), bias.typed_data(),
                gain.typed_data(), sum->typed_data(), product->typed_data());
  return ffi::Error::Success();
}

}  // namespace
}  // namespace resnet_jax

using resnet_jax::Array;
using xla::ffi::Ffi;
using xla::ffi::ThreadPool;

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    channel_moments, resnet_jax::Moments, Ffi::Bind().Ctx<ThreadPool>().Arg<Array>().Ret<Array>().Ret<Array>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(channel_collect, resnet_jax::Collect,
                              Ffi::Bind().Ctx<ThreadPool>().Arg<Array>().Arg<Array>().Arg<Array>().Ret<Array>().Ret<Array>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    channel_collect_masked, resnet_jax::CollectMasked,
    Ffi::Bind().Ctx<ThreadPool>().Arg<Array>().Arg<Array>().Arg<Array>().Arg<Array>().Arg<Array>().Ret<Array>().Ret<Array>());
