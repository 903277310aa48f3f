"""Processes that do a run's work with Paddle programs, so that what runs side by side shares nothing."""
