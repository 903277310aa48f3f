"""Static programs: built from a specification, run with weights in a scope of their own."""
