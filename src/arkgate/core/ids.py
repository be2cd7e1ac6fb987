"""Random parts of ids: unique, and no secrets."""

import os
import random

_source = random.Random()  # noqa: S311 - seeded by the system; an id is unique and no secret
os.register_at_fork(after_in_child=_source.seed)  # or two children would give the same ids

random_bits = _source.getrandbits
"""So many random bits as a number."""
