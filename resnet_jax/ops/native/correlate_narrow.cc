// Correlations of at most 16 input channels.

#include "correlate.h"

namespace resnet_jax {

template void correlate_any_stride<3>(ffi::ThreadPool&, const Correlation&, const float*, float*);
template void correlate_any_stride<4>(ffi::ThreadPool&, const Correlation&, const float*, float*);
template void correlate_any_stride<16>(ffi::ThreadPool&, const Correlation&, const float*, float*);

}  // namespace resnet_jax
