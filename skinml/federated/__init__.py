"""Rounds over Flower: clients, the coordinator, participation, simulation."""
