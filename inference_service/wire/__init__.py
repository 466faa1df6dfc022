"""The wire: message types, their bytes, and what the device and the engine say to each other in them."""
