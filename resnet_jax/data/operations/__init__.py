"""Operations on 8-bit images: one table of definitions for host and device, used by single transforms and policies.

==========  =======================================================================
file        content
==========  =======================================================================
``colour``  lookup tables and blends, rounded as in Pillow
``hue``     the rotation of the hue
``affine``  shears, translations, rotations and scaling, of images, masks and boxes
``table``   the rows: name, form, magnitude
``apply``   one operation on an example, or one chosen among several
==========  =======================================================================
"""

from resnet_jax.data.operations.apply import Drawing, apply_chosen, apply_operation
from resnet_jax.data.operations.table import OPERATIONS, Operation, operation_of

__all__ = ["OPERATIONS", "Drawing", "Operation", "apply_chosen", "apply_operation", "operation_of"]
