"""What the report of a run shows, and what a Prefect run publishes of it."""
