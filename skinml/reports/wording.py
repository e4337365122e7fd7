"""The report's words: names of figures and attributes, and what trust and epsilon mean."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MetricWords:
    """How the report speaks of one figure.

    Attributes:
        title: Its name in tables.
        meaning: What it says, for a reader without statistics.
        decimals: Digits after the point.
    """

    title: str
    meaning: str
    decimals: int


# Figures of a round, in the training's course.
COURSE = {
    "num_clinics": "Clinics in the sum",
    "update_norm": "Length of the sum",
}

METRICS = {
    "auroc": MetricWords(
        "AUROC",
        "how often the model gives the higher score to the malignant one, when one malignant and "
        "one other image are drawn by chance: 1 is always, 0.5 is no better than a coin",
        3,
    ),
    "malignancy_auroc": MetricWords(
        "AUROC, malignant or not",
        "the AUROC when all malignant diagnoses are taken together",
        3,
    ),
    "balanced_accuracy": MetricWords(
        "Balanced accuracy",
        "the share of right decisions within each class, averaged over the classes; the decision "
        "is for the likeliest class with the classes' frequency left out, not by the threshold for "
        "alarms",
        3,
    ),
    "sensitivity": MetricWords(
        "Sensitivity",
        "the share of malignant images that raise an alarm",
        2,
    ),
    "specificity": MetricWords(
        "Specificity",
        "the share of images that are not malignant and raise no alarm",
        2,
    ),
    "ppv": MetricWords(
        "Positive predictive value",
        "the share of alarms that are for malignant images, at these patients' share of malignancy",
        2,
    ),
    "npv": MetricWords(
        "Negative predictive value",
        "the share of images without alarm that are not malignant",
        2,
    ),
    "observed_to_expected": MetricWords(
        "Observed over expected",
        "malignant images over the sum of all stated risks: 1 when the risks are right on average, "
        "above 1 they are stated too low",
        2,
    ),
    "calibration_intercept": MetricWords(
        "Calibration intercept",
        "0 when the risks are right on average; above 0 they are stated too low, below 0 too high",
        2,
    ),
    "calibration_slope": MetricWords(
        "Calibration slope",
        "1 when the risks spread as they should; below 1 they are too extreme, above 1 too timid",
        2,
    ),
    "brier": MetricWords(
        "Brier score",
        "the mean squared distance between risk and outcome: smaller is better, and it depends on "
        "how common malignancy is in the group",
        3,
    ),
    "ece": MetricWords(
        "Calibration error (debiased ECE)",
        "the root-mean-square distance between stated risk and observed share, with the part "
        "that chance alone produces taken off",
        3,
    ),
}

# The columns of the three tables of figures, in this order.
DISCRIMINATION = (
    "auroc",
    "malignancy_auroc",
    "sensitivity",
    "specificity",
    "ppv",
    "npv",
    "balanced_accuracy",
)
CALIBRATION = ("observed_to_expected", "calibration_intercept", "calibration_slope", "brier", "ece")
# What stands for all figures whose name begins like this.
NET_BENEFIT = "net_benefit_at_"
FAMILIES = {
    NET_BENEFIT: MetricWords(
        "Net benefit",
        "hits less false alarms, per image, if somebody acts from this risk on; a false alarm "
        "counts the less the lower that risk is; 0 is as good as no alarm at all",
        3,
    ),
    "top_": MetricWords(
        "Top-k accuracy", "the share of images whose diagnosis is among the k likeliest", 3
    ),
    "auroc_of_": MetricWords("AUROC of one diagnosis", "that diagnosis against all others", 3),
    "sensitivity_of_": MetricWords(
        "Sensitivity of one diagnosis", "the share of its images that are decided for it", 2
    ),
}
# What a figure from a predictions file means where it is another one.
FROM_FILE = {
    "balanced_accuracy": MetricWords(
        "Balanced accuracy",
        "the mean of sensitivity and specificity, both of the same decisions as the alarms",
        3,
    ),
}
# What a figure from released counts means where it is another one than from predictions.
COUNTED = {
    "observed_to_expected": MetricWords(
        "Observed over expected",
        "malignant patients over the sum of all risks: 1 when the risks are right on average, "
        "above 1 they are stated too low; each risk is taken as the middle of its bin",
        2,
    ),
    "balanced_accuracy": MetricWords(
        "Balanced accuracy",
        "the mean of sensitivity and specificity, both at the threshold for alarms",
        3,
    ),
}
# What a record is called that comes from a predictions file.
PREDICTIONS = "predictions"
# When criteria and margins were set, as far as the page can know.
FIXED = "before the data were seen"
FIXED_BY_WHOEVER = "before this report was made, by whoever ran it"
NAMED_BY_WHOEVER = "named by whoever ran this report"
GIVEN_THRESHOLD = (
    "given with the predictions; this page cannot know which patients it was chosen on"
)
FOREST = ("auroc", "sensitivity", "specificity")

SCALES = {
    "monk": "Monk Skin Tone, 1 lightest to 10 darkest",
    "milk": "MILK10k's classes, 0 very dark to 5 very light",
    "fitzpatrick": "Fitzpatrick skin type, I burns most easily to VI darkest",
}

# The taxonomy's own names of places on the body; a clinic's names stay as it writes them.
GROUPS = {
    "head_neck": "head or neck",
    "upper_extremity": "arm or shoulder",
    "lower_extremity": "leg",
    "hand_foot": "hand or foot",
    "oral_genital": "mouth or genitals",
    "unknown": "not known",
}
ATTRIBUTES = {
    "overall": "Everybody",
    "skin_tone": "Skin tone",
    "fitzpatrick": "Fitzpatrick skin type",
    "monk": "Monk skin tone",
    "ita_bin": "Image tone (ITA)",
    "sex": "Sex",
    "age_band": "Age band",
    "anatomical_site": "Place on the body",
    "site": "Place on the body",
    "clinic": "Clinic",
    "label": "Class",
    "diagnosis": "Diagnosis",
    "modality": "Kind of image",
}

# By trust model: who adds noise, and who must be trusted.
TRUST = {
    "none": (
        "Nobody adds noise.",
        "Everybody who sees an update or the model must be trusted.",
    ),
    "central": (
        "The coordinator adds noise to the sum of the clinics' updates.",
        "The coordinator must be trusted: it sees every clinic's update before the noise.",
    ),
    "distributed": (
        "Each clinic adds a share of the noise, which suffices once the updates are summed up.",
        (
            "Each clinic's part leaves it under masks that cancel out in the total: whoever adds "
            "them up sees the total alone, as long as no more clinics than planned pool what they "
            "know."
        ),
    ),
    "local": (
        "Each clinic adds all of the noise itself before anything leaves it.",
        "Nobody outside the patient's own clinic must be trusted.",
    ),
}

# Who the promise speaks to, in the words of its first line.
YOU = {
    "patient": "All your images, at all of your clinics together,",
    "patient_within_clinic": "All your images at one clinic",
}

UNITS = {
    "patient": "all images of one patient, at all of the patient's clinics together",
    "patient_within_clinic": "all images of one patient at one clinic",
}


def fixed_words(kind: str) -> str:
    """Say when criteria and margins were set, as far as a page can know.

    Args:
        kind: What the record is of; a predictions file tells nothing of what came before.

    Returns:
        The end of a sentence that begins with "fixed".

    >>> fixed_words("predictions")
    'before this report was made, by whoever ran it'
    """
    return FIXED_BY_WHOEVER if kind == PREDICTIONS else FIXED


def attribute_title(attribute: str) -> str:
    """Name an attribute for a reader.

    Args:
        attribute: The attribute's name in the record.

    Returns:
        Its title; the name itself with spaces where no title is known.

    >>> attribute_title("skin_tone"), attribute_title("camera_model")
    ('Skin tone', 'Camera model')
    """
    return ATTRIBUTES.get(attribute, attribute.replace("_", " ").strip().capitalize())


def metric_words(name: str) -> MetricWords:
    """Look up how to speak of a figure.

    Args:
        name: The figure's name in the record.

    Returns:
        Its words; three decimals and no meaning where the figure is not known.
    """
    return METRICS.get(name, MetricWords(name.replace("_", " ").capitalize(), "", 3))


def course_title(name: str) -> str:
    """Name a figure of the training's course for a reader.

    Args:
        name: The figure's name in the history.

    Returns:
        Its title; the name itself with spaces where no title is known.

    >>> course_title("num_clinics"), course_title("step_size")
    ('Clinics in the sum', 'Step size')
    """
    return COURSE.get(name, name.replace("_", " ").capitalize())


def trust_words(trust: str) -> tuple[str, str]:
    """Say who adds noise and who must be trusted.

    Args:
        trust: The trust model's name.

    Returns:
        Two sentences.
    """
    return TRUST.get(trust, (f"Trust model: {trust}.", "See the documentation of this model."))


def unit_words(unit: str) -> str:
    """Say whose data the guarantee protects as a whole.

    Args:
        unit: The privacy unit's name.

    Returns:
        The unit in words.
    """
    return UNITS.get(unit, unit.replace("_", " "))


def you_words(unit: str) -> str:
    """Say to a patient what is protected as a whole.

    Args:
        unit: The privacy unit's name.

    Returns:
        The subject of a sentence.
    """
    return YOU.get(unit, f"All records of one unit ({unit_words(unit)})")


def collusion_words(trust: str, *, num_clinics: int, num_enough: int, num_honest: int) -> str:
    """Say who may put together what they know without breaking the promise.

    Args:
        trust: The trust model's name.
        num_clinics: Clinics of the run; 0 where it was not recorded.
        num_enough: Clinics that are enough for a sum.
        num_honest: Those of them whose noise is enough.

    Returns:
        A sentence or two; empty where there is nothing to say.
    """
    if trust == "local":
        return "All others may put together what they know: the clinic's own noise is enough."
    if trust == "central":
        return "The clinics may put together what they know, but not with the coordinator."
    if trust != "distributed" or not num_clinics:
        return ""
    colluding = num_enough - num_honest
    needed = (
        f"{num_honest} of the {num_clinics}" if num_honest < num_clinics else f"all {num_clinics}"
    )
    shares = f"It takes the noise of {needed} clinics."
    if num_enough < num_clinics:
        shares += f" A sum needs {num_enough} of them."
    if colluding:
        return f"{shares} Up to {colluding} may tell others the noise that they added."
    return f"{shares} None may tell others what noise it added: each that does weakens the promise."


def unit_noun(unit: str) -> str:
    """Name what the data count as patients.

    Args:
        unit: What a patient's id stands for in the data: "patient", "lesion" or "image".

    Returns:
        The noun in the plural.

    >>> unit_noun("lesion"), unit_noun("")
    ('lesions', 'patients')
    """
    return {"lesion": "lesions", "image": "single images"}.get(unit, "patients")
