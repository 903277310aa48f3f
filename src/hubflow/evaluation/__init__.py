"""What an evaluation tells of a split: its evaluated rows, its metrics and its details."""
