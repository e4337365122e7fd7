"""A clinic's own desk: its folder and what lies in it."""
