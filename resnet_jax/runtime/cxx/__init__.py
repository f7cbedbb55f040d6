"""C++ of this package, compiled once for a machine. Nothing here needs JAX: a compiler begins before that is loaded."""
