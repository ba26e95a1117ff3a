"""Independent implementations that the library is tested against; they import nothing of it."""
