"""Inference: the export of a trained task, its verification, and prediction with it."""
