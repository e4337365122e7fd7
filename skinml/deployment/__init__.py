"""Real processes on several machines, on Flower's runtime: the coordinator's and the clinics'."""
