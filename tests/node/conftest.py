"""The real pair; without it its tests are skipped, with a message that says what to set."""

import pytest

from tests.node.real import NotConfigured, Pair, configured_pair
from tests.stage import run


@pytest.fixture(scope="session")
def pair() -> Pair:
    """The gateway's node and the payer, from the environment."""
    try:
        found = configured_pair()
    except NotConfigured as missing:
        pytest.skip(str(missing))
    print(f"the payer runs LND {run(found.payer.version())}")
    return found
