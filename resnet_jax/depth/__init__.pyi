"""The public names of ``depth``."""

from .arrays import load_arrays as load_arrays, save_arrays as save_arrays
from .checking import PropagationCheck as PropagationCheck, check as check
from .hessian import HessianEigenvalues as HessianEigenvalues, hessian_eigenvalues as hessian_eigenvalues
from .jacobian import JacobianSpectra as JacobianSpectra, jacobians as jacobians
from .lesion import (
    Deletions as Deletions,
    Permutations as Permutations,
    delete_blocks as delete_blocks,
    permute_blocks as permute_blocks,
)
from .measure import Moments as Moments, measure_moments as measure_moments, sample_moments as sample_moments
from .own_blocks import (
    BLOCK_AXES as BLOCK_AXES,
    BlockNames as BlockNames,
    Identity as Identity,
    instrumented as instrumented,
)
from .paths import PathLengths as PathLengths, path_lengths as path_lengths
from .predict import predict_moments as predict_moments
from .predict_backward import Gradients as Gradients, predict_gradients as predict_gradients
from .profiling import profile as profile
from .propagation import Propagation as Propagation, measure_propagation as measure_propagation
from .result import DepthProfile as DepthProfile
from .shattering import (
    Shattering as Shattering,
    autocorrelation as autocorrelation,
    gradient_correlation as gradient_correlation,
    gradients_along_line as gradients_along_line,
    measure_shattering as measure_shattering,
    wide_gradient_correlation as wide_gradient_correlation,
)
from .similarity import (
    LinearProbes as LinearProbes,
    Similarity as Similarity,
    linear_cka as linear_cka,
    linear_probes as linear_probes,
)
