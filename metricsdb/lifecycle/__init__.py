"""What becomes of data as they age."""
