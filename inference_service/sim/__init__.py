"""A simulated robot: MuJoCo physics and camera pictures. Knows no transport."""
