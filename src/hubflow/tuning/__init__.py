"""Tuning: studies of settings."""
