"""The synthetic cohort: drawn patients whose skin tone and difficulty are known truth.

The settings are in `settings`, the cohort is written by `cohort.write_cohort`. The steps behind it:
`skin` turns melanin and blood into colour, `texture` makes random fields, `lesions` draws a lesion
by its class, `scene` lays it on skin, `camera` photographs the scene, `people` draws who is where.
"""
