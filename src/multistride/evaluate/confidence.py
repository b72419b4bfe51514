"""`multistride calibrate` for classifiers: one temperature that makes probabilities honest.

Source: temperature scaling, Guo et al. 2017 (arXiv 1706.04599, section 4.2).
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from multistride.data.corpus import read_lines
from multistride.decode.options import DecodeOptions
from multistride.errors import DataError, UsageError
from multistride.files import sha256
from multistride.metrics.calibration import (
    at_an_edge,
    class_calibration_error,
    fitted_temperature,
    log_loss,
)
from multistride.model.directory import weights_digest
from multistride.tasks.classification.classifier import Classifier, ClassTemperature
from multistride.tasks.classification.task import opened_classifier
from multistride.tasks.record import read_records, solved

logger = logging.getLogger(__name__)

LEAST_RECORDS = 20


def calibrate_classifier(
    classifier: Classifier,
    directory: Path,
    source: Path,
) -> ClassTemperature:
    """Fit the temperature on every other record of `source` and judge it on the rest.

    Raises `DataError` for a file that cannot be read or has fewer than 20 records with a known
    label; others are reported.
    """
    if classifier.measured is not None:
        raise UsageError(
            "a temperature is fitted on probabilities as they come: open it uncalibrated"
        )
    opened = opened_classifier(classifier)
    way = DecodeOptions(group_size=classifier.group_size, batch_size=classifier.batch_size)
    rows, labels = [], []
    for each in solved(opened, read_records(read_lines(source)), way):
        if each.answer is None or each.record is None or "label" not in each.record:
            logger.warning(str(each.problem or f"line {each.line}: it has no 'label'"))
            continue
        rows.append([each.answer.facts["probabilities"][name] for name in classifier.classes])
        labels.append(classifier.classes.index(each.record["label"].strip()))
    if len(rows) < LEAST_RECORDS:
        raise DataError(
            f"{source} has {len(rows)} records with a known label; {LEAST_RECORDS} are needed"
        )
    scores, wanted = np.log(np.maximum(np.array(rows), 1e-30)), np.array(labels)
    temperature = fitted_temperature(scores[::2], wanted[::2])
    if at_an_edge(temperature):
        right = int((scores[::2].argmax(1) == wanted[::2]).sum())
        logger.warning(
            f"{right} of the {len(scores[::2])} records that a temperature is fitted on are right, "
            "so none fits: probabilities stay as they are; give more records"
        )
        temperature = 1.0
    judged, truth = scores[1::2], wanted[1::2]
    return ClassTemperature(
        model_sha256=weights_digest(directory),
        source_sha256=sha256(source),
        records=len(rows),
        group_size=classifier.group_size,
        temperature=temperature,
        error_before=class_calibration_error(judged, truth),
        error_after=class_calibration_error(judged / temperature, truth),
        log_loss_before=log_loss(judged, truth),
        log_loss_after=log_loss(judged / temperature, truth),
    )
