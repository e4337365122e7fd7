"""The script by which MLflow opens a registered skinml model: code from here, weights beside it."""

from skinml.experiments.evaluate import load_scorer
from skinml.tracking.serving import serve

serve(load_scorer)
