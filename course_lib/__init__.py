"""Learning Normal: models, training loops and metrics for unsupervised anomaly detection in medical images."""

from course_lib import runtime as _runtime

_runtime.tune()  # before torch is imported: see runtime.py
