"""safety_jax: make LLaMA-family models safe and still helpful, in JAX, and prove it.

Importing the package has no side effects.
"""

__version__ = "0.1.0"
