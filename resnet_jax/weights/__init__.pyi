"""The public names of ``weights``."""

from .convert import from_variables as from_variables, to_variables as to_variables
from .files import load_state_dict as load_state_dict, save_safetensors as save_safetensors
from .names import name_map as name_map
from .torch_file import load_torch as load_torch
