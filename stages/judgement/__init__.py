"""What an evaluation tells of a split: its judged rows, its metrics and its details. No Paddle here."""
