"""What leaves the house: networks that take raw images, and what they say."""
