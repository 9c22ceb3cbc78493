"""Structures to arrays and back: pure functions, float32."""
