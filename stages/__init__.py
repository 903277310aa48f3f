"""The stages: one file each, a Prefect task over a plain function of the same name. Importing it imports no Paddle."""
