"""The JSON Schema of a sweep file, for editors, and a first sweep file that names it."""

import re
from typing import Any

from search_spaces.config import NAME_PATTERN, SweepConfig

TITLE = "a sweep file"
_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_TEMPLATE = """\
# yaml-language-server: $schema={schema}
# What to search, and how. Look at it:  sweep preview {file}
# Run it:  sweep launch {file}
version: 1
name: {name:20}# names the sweep: sweep watch {name}
data:
  dataset: digits           # or fashion_mnist, mnist, kmnist, which are downloaded
  validation_examples: 287  # cut from the training images; trials are compared by them
training:                   # the same for every trial
  model: cnn
  optimizer: sgd            # or momentum, nesterov, adam, adamw
  num_epochs: 10
  batch_size: 64
space:                      # what differs between trials
  schedule:                 # the family is searched too; all of them: sweep schedules
    constant:
      peak_lr: {{log_uniform: [1e-3, 1]}}         # a range; a plain value is fixed
    cosine_decay:
      peak_lr: {{log_uniform: [1e-3, 1]}}
      final_fraction: {{choice: [0, 0.01, 0.1]}}  # of the peak, at the end
    one_cycle: default                          # a space that suits SGD
  warmup_fraction: {{uniform: [0, 0.2]}}          # of the run, a rise in front of any family
  momentum: {{uniform: [0, 0.98]}}
search:
  algorithm: tpe            # or random, grid, cmaes
  num_trials: 24            # hours: 2 ends it as well
  metric: val_accuracy      # or val_loss, train_loss
pruning:                    # stops trials that fall behind those of their own family
  algorithm: asha           # or median, none
  grace_epochs: 3           # that every trial is given
resources:
  cpus_per_trial: 1
  gpus_per_trial: auto      # one where there is one; or a number, or a fraction such as 0.25
"""


def json_schema() -> dict[str, Any]:
    """What a sweep file may hold; rules between its keys are checked by `sweep check` alone."""
    return {"$schema": _DRAFT} | SweepConfig.model_json_schema() | {"title": TITLE}


def first_file(file: str, *, stem: str, schema: str) -> str:
    """A sweep file with comments that runs as it is, named after its own file where it can be."""
    name = stem if re.fullmatch(NAME_PATTERN, stem) else "first-sweep"
    return _TEMPLATE.format(schema=schema, file=file, name=name)
