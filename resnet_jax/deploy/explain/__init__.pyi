"""The public names of ``deploy.explain``."""

from .forward import layers_of as layers_of, upsampled as upsampled
from .gradcam import grad_cam as grad_cam
from .overlay import Overlay as Overlay, gradcam_overlay as gradcam_overlay
from .targets import Target as Target, choose_target as choose_target
