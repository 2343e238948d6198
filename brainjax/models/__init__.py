"""Encoders, sequence heads, and the classifier made of them."""
