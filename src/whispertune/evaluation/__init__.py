"""A split decoded and scored."""
