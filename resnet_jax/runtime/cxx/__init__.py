"""The C++ of this package, compiled once per machine. Nothing here needs JAX: compilation starts before it is
loaded.
"""
