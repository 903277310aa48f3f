"""What predict is made of: rows laid out in parts, each predicted and kept by its content, put together in order."""
