"""Plans: which variant runs where, on how much of which device, and why. Pure functions."""
