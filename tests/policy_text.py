"""A policy for tests, each of whose lines can be another one."""

from __future__ import annotations

import re

_TEXT = """
clinic: north
purposes: [research, federated_training]
licences: [CC0, CC-BY]
coordinators: [simulation]
experiments: ["*"]
privacy:
  least_noise_multiplier: null
  max_epsilon_per_run: 3
  max_epsilon_per_year: 6
  max_epsilon_for_life: 10
  max_delta: 1e-5
least_patients: 50
least_clinics: 2
retention: {images_days: null, features_days: 365, predictions_days: 365, log_days: 3650}
fields: [lesion_id, malignant, age, sex, anatomical_site, skin_tone, modality, confirmation]
originals: drop
special_fields: {genetic: [], financial: []}
roles: {steward: ["*"], clinician: [], operator: ["*"], auditor: []}
"""


def policy_text(**lines: str) -> str:
    """Write the policy, with other values in the lines named."""
    text = _TEXT
    for name, value in lines.items():
        text, count = re.subn(
            rf"^( *{name}: ).*$", lambda found, value=value: found[1] + value, text, flags=re.M
        )
        assert count == 1, name
    return text
