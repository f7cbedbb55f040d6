"""What people look at: progress, metric files, TensorBoard events, curves and confusion pictures."""
