"""The transforms of this package by name; JAX is imported when one is applied.

=========================================  =============================================================================
file                                       transforms
=========================================  =============================================================================
``base``                                   what is done to one example, on the host or on the device
``crop``, ``flip``                         random_resized_crop, random_crop, flip, alternating_flip, rotate90
``scale_crop``                             random_scale_crop
``affine``, ``single``                     random_affine; every operation of :mod:`resnet_jax.data.operations` by its
                                           name
``colour``                                 colour_jitter, gaussian_blur
``erase``, ``mixing``, ``partners``        cutout, random_erasing; mixup, cutmix, mix; shuffle_partners
``policy``, ``policies``, ``auto_tables``  rand_augment, trivial_augment, auto_augment
``augmix``                                 augmix
``series``, ``sounds``                     jitter, scaling, time_stretch, time_mask, freq_mask; gain, noise
=========================================  =============================================================================
"""

from resnet_jax.data.augmentations.affine import RandomAffine
from resnet_jax.data.augmentations.augmix import AugMix
from resnet_jax.data.augmentations.base import ForExample
from resnet_jax.data.augmentations.colour import ColourJitter, GaussianBlur
from resnet_jax.data.augmentations.crop import RandomCrop, RandomResizedCrop
from resnet_jax.data.augmentations.erase import Cutout, RandomErasing
from resnet_jax.data.augmentations.flip import AlternatingFlip, Flip, Rotate90
from resnet_jax.data.augmentations.mixing import CutMix, Mix, Mixup
from resnet_jax.data.augmentations.partners import ShufflePartners
from resnet_jax.data.augmentations.policies import AutoAugment, RandAugment, TrivialAugment
from resnet_jax.data.augmentations.scale_crop import RandomScaleCrop
from resnet_jax.data.augmentations.series import FreqMask, Jitter, Scaling, TimeMask, TimeStretch
from resnet_jax.data.augmentations.single import _Single as _Single
from resnet_jax.data.augmentations.sounds import Gain, Noise

__all__ = [
    "AlternatingFlip",
    "AugMix",
    "AutoAugment",
    "ColourJitter",
    "CutMix",
    "Cutout",
    "Flip",
    "ForExample",
    "FreqMask",
    "Gain",
    "GaussianBlur",
    "Jitter",
    "Mix",
    "Mixup",
    "Noise",
    "RandAugment",
    "RandomAffine",
    "RandomCrop",
    "RandomErasing",
    "RandomResizedCrop",
    "RandomScaleCrop",
    "Rotate90",
    "Scaling",
    "ShufflePartners",
    "TimeMask",
    "TimeStretch",
    "TrivialAugment",
]
