"""The public names of ``deploy.explain``."""

from .explainer import Explained as Explained, Explainer as Explainer, Map as Map
from .forward import (
    input_gradient as input_gradient,
    layers_of as layers_of,
    maps_and_gradients as maps_and_gradients,
    upsampled as upsampled,
)
from .gradcam import grad_cam as grad_cam
from .gradcam_plus import grad_cam_plus_plus as grad_cam_plus_plus
from .integrated import (
    Attributions as Attributions,
    integrated_gradients as integrated_gradients,
    integrated_gradients_within as integrated_gradients_within,
)
from .methods import METHODS as METHODS, Method as Method, Settings as Settings
from .mistakes import Mistakes as Mistakes, find_mistakes as find_mistakes
from .nearest import Neighbour as Neighbour, Neighbours as Neighbours
from .occluded import occlusion as occlusion
from .perturbation import Curves as Curves, deletion_insertion as deletion_insertion, random_order as random_order
from .randomized import (
    Similarities as Similarities,
    parts_of as parts_of,
    randomization_check as randomization_check,
    rank_correlation as rank_correlation,
)
from .smoothgrad import smooth_grad as smooth_grad
from .stagewise import stage_activations as stage_activations
from .targets import Target as Target, choose_target as choose_target
