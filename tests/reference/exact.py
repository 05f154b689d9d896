"""transformers with every float in float64, also where its code says float32."""
import contextlib

import torch


@contextlib.contextmanager
def every_float_is_f64():
    """Inside, torch.float32 and Tensor.float() mean float64: RMS norms, softmax and rotary angles
    that transformers computes in float32 by name are then exact to float64 too."""
    names = ("float32", "float")
    kept = {name: getattr(torch, name) for name in names}
    to_float = torch.Tensor.float
    default = torch.get_default_dtype()
    try:
        for name in names:
            setattr(torch, name, torch.float64)
        torch.Tensor.float = torch.Tensor.double
        torch.set_default_dtype(torch.float64)
        yield
    finally:
        for name, value in kept.items():
            setattr(torch, name, value)
        torch.Tensor.float = to_float
        torch.set_default_dtype(default)
