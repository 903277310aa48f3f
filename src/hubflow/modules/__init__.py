"""Pretrained modules: where they come from, their weights, and their networks."""
