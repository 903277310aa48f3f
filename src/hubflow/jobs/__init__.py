"""Jobs: what worker processes do for the stages, training, evaluation and export."""
